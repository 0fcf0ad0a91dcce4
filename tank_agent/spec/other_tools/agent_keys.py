"""Keys of other tools that users write into agent.toml, with ours, or with why there is none.

They are of dockerd's daemon.json, podman's containers.conf, registries.conf and storage.conf, kubelet's
configuration, containerd, Flux, Argo CD and Nomad. A word counts in every table, "table.word" in that table
only, ".word" at the top.
"""

from __future__ import annotations

from tank_agent.spec.other_tools.form import by_ours, by_word

_KEYS = {
    "allow_empty": "prune_last",
    "allow_rewrite": "allow_force_push force",
    "attempts": "max_download_attempts retries retry",
    "auth_files": "auth auth_file auths credentials_file docker_config registry_auth_file",
    "backoff_base": "backoff initial_backoff restart_delay restart_sec",
    "backoff_cap": "backoff_max max_backoff max_container_restart_period restart_max_delay_sec",
    "blocked": "block deny",
    "branch": "ref reference revision target_revision",
    "ca": "ca_cert ca_certs cert cert_file certs",
    "ca_file": "ca ca_cert cacert",
    "check": "auto_update_interval update_interval watch_interval",
    "data_dir": (
        "data_directory data_path data_root graph graph_root graphroot lib_dir root root_dir root_directory "
        "static_dir storage storage_root var_dir volume_path"
    ),
    "depth": "clone_depth fetch_depth",
    "dns": "cluster_dns dns_server dns_servers nameserver nameservers resolvers",
    "git": "git_repository gitops repo repository",
    "host": "host_facts machine node",
    "hosts": "allowed_hosts server_name server_names trusted_hosts",
    "identities": "age_key age_keys decryption identity identity_file identity_files key_files private_keys",
    "image": "images",
    "insecure": "http insecure_skip_verify plain_http skip_tls_verify skip_verify",
    "ipv6": "fixed_cidr_v6 ip6 subnet6",
    "known_hosts": "known_hosts_file",
    "labels": "engine_labels label node_labels node_meta tags",
    "listen": "addr address bind bind_addr bind_address http_address listen_addr listen_address",
    "logs": "log logging",
    "max_files": "container_log_max_files log_max_files max_backups max_file",
    "mirrors": "endpoint endpoints mirror",
    "parallel": "image_parallel_copies max_concurrent_downloads max_parallel_image_pulls parallel_pulls",
    "path": "base_path dir directory folder manifest_path sub_path subdirectory",
    "platform": "arch architecture default_platform",
    "pods_dir": (
        "config_dir manifest_dir manifests_dir pod_dir pod_manifest_path pods_d pods_directory pods_path "
        "quadlet_dir static_pod_path unit_dir"
    ),
    "poll": "interval poll_interval polling refresh sync_interval sync_period",
    "pool": (
        "address_pool address_pools bip cidr cluster_cidr default_address_pools default_subnet "
        "default_subnet_pools fixed_cidr pod_cidr pod_subnet subnet"
    ),
    "prefix": "default_subnet_prefix prefix_length subnet_size",
    "publish": "bind bind_address default_bind_ip host_ip ip publish_address",
    "pull": "image_pull_policy pull_policy",
    "read_timeout": "pull_timeout request_timeout",
    "registry": "registries",
    "resync": "node_status_update_frequency reconcile_interval resync_interval sync_frequency",
    "run_dir": "exec_root run_directory run_root runroot runtime_dir socket_dir state state_dir tmp_dir",
    "run_as": "run_as_user",
    "secrets": "age decryption sops",
    "seed_dir": "seed seeds seeds_dir",
    "snapshot_keep": "keep_snapshots retain snapshots snapshots_keep",
    "ssh_key": "deploy_key identity_file key_file private_key ssh_key_file ssh_private_key",
    "stable_after": "reset_after start_limit_interval start_limit_interval_sec",
    "token_file": "access_token_file bearer_token_file",
    "uplink": "default_interface device iface interface nic parent",
    "url": "clone_url git_url repo repo_url repository uri",
    "username": "user",
    "workers": "concurrency max_concurrent_reconciles workers_max",
}
OTHER_TOOLS = by_ours(_KEYS)

_OF_PODS = (
    "annotations base_hosts_file cap_add cap_drop cgroupns cgroups default_capabilities "
    "default_cgroupns_mode default_ipc_mode "
    "default_pids_limit default_restart_policy default_shm_size default_sysctls default_ulimits "
    "default_ulimit devices dns_options dns_opts dns_search dns_searches env env_host environment "
    "http_proxy_env ipcns netns privileged read_only "
    "no_hosts no_new_privileges pids_limit pidns pod_pids_limit restart restart_policy shm_size "
    "tz umask userns userns_remap utsns volume"
)
# The sentence → the words.
REASONS = {
    'write [registry."docker.io"] with mirrors = ["mirror.lan:5000"]': (
        ".mirrors registry.mirrors registry_mirrors registry.mirror"
    ),
    'write [registry."HOST:PORT"] with insecure = true for each': (
        "image.insecure insecure_registries insecure_registry registry.insecure"
    ),
    'write [registry."HOST"] with blocked = true': "block_registries blocked_registries registry.blocked",
    'write [registry."HOST"] with ca = "/…/ca.pem"': "certs_dir tls_ca_cert",
    "a name without a registry is one of docker.io; write whole references in pod files": (
        "default_registry registry.search short_name_mode unqualified_search_registries"
    ),
    'write the name of the registry in the header: [registry."docker.io"]': (
        "registry.location registry.prefix"
    ),
    "what one container gets is written in its pod file; remove it": _OF_PODS,
    "every container is confined, and [containers.security] of a pod file says if not; remove it": (
        "apparmor_profile seccomp_default seccomp_profile selinux selinux_enabled"
    ),
    "the agent keeps what is printed, see [logs]; remove it": (
        "events_logger log_driver log_format log_path"
    ),
    "it is called max_size, and belongs in [logs]": (
        "container_log_max_size log_max_size log_size_max max_log_size"
    ),
    "write max_size and max_files in [logs]": "log_opts logs.opts logs.options logging.options",
    "the agent keeps what is printed as it is, in files of that size; remove it": (
        "logs.compress logs.driver log_tag"
    ),
    "`journalctl -u tank-agent` has what the agent does; remove it": (
        "debug log_file log_level raw_logs syslog trace_level v verbose verbosity"
    ),
    "images are unpacked into directories, which overlayfs joins; remove it": (
        "graph_driver .driver image_default_transport mount_program mountopt snapshotter storage_driver "
        "storage_opts"
    ),
    "crun runs each container, or runc where it can't; remove it": (
        "cgroup_driver cgroup_manager cgroup_root conmon_path container_runtime containerd infra_image "
        "container_runtime_endpoint "
        "default_runtime exec_opts init init_path runtime runtimes systemd_cgroup"
    ),
    "the agent's cgroup is the one of tank-agent.service; remove it": (
        "cgroup_parent cgroups_per_qos kube_reserved system_reserved"
    ),
    "containers go on whatever the agent does; remove it": (
        "container_exits kill_containers leave_on_interrupt live_restore stop_timeout shutdown_timeout"
    ),
    "orders come by tank.sock in run_dir only, from elsewhere by ssh; a page has listen in [web]": (
        "api api_cors_header hosts advertise port ports read_only_port .socket tls tls_cert "
        "tls_cert_file tls_key tls_private_key_file tls_verify token"
    ),
    "root and the group tank may use the agent's socket; remove it": (
        "authentication authorization authorization_plugins acl .group rbac rotate_certificates"
    ),
    "metrics are at /metrics of the page: write listen in [web]": (
        "dashboard metrics metrics_addr metrics_address prometheus statsd telemetry ui"
    ),
    "TLS is for a proxy in front, which docs/web.md shows; remove it": (
        "web.ca web.cert web.cert_file web.certificate web.key web.key_file web.tls"
    ),
    "a token is in a file: write token_file in [web]": "web.auth web.password web.token",
    "ports are a table of nftables that the agent keeps; remove it": (
        "allow_direct_routing firewall_backend firewall_driver icc ip_forward ip_forward_no_drop ip_masq "
        "ip6tables iptables nftables userland_proxy userland_proxy_path"
    ),
    "a bridge is made when a pod names it; write pool and publish in [network.bridge]": (
        ".bridge cni_plugin_dirs network.driver network_cmd_path default_network default_network_name "
        "default_network_opts netavark_plugin_dirs "
        "network.default network.network_backend network_backend network_config_dir network_plugin"
    ),
    "a bridge has the MTU of the uplink; remove it": "mtu network_plugin_mtu",
    "the uplink's default route counts; remove it": "default_gateway default_gateway_v6 gateway",
    "a proxy is in the environment of the service: `systemctl edit tank-agent`": (
        "http_proxy https_proxy no_proxy proxies proxy"
    ),
    "`tank image prune` removes images that no pod needs; remove it": (
        "gc image_gc_high_threshold_percent image_gc_low_threshold_percent image_maximum_gc_age "
        "image_minimum_gc_age"
    ),
    "no pod is taken away for want of room; write limits in pod files, and remove it": (
        "eviction_hard eviction_soft max_pods oom_score_adj oom_score_adjust"
    ),
    "the machine's host name counts: `hostnamectl hostname NAME`": (
        "host_name hostname_override name node_name"
    ),
    "there is one machine, and no cluster; remove it": (
        "bootstrap_expect client consul region cluster cluster_domain cluster_store datacenter kube_config "
        "register_node retry_join "
        "server servers swarm swarm_default_advertise_addr"
    ),
    "pods go with their files, and the agent sees to the rest; remove it": (
        "auto_sync prune self_heal suspend sync_policy sync_options"
    ),
    "nothing of that kind can be switched; remove it": (
        "builder disable_update_check experimental feature_gates features lock_type num_locks plugin "
        "plugins prepare_volume_on_create"
    ),
    "agent.toml is the agent's; write pods as files of pods_dir, or as [[pods]] here": (
        ".containers .services"
    ),
    "agent.toml has no version; remove it": "api_version kind version",
    "write listen and secret_file in [git.webhook]": ".webhook",
    'write mode = "commits" or "tag" in [git.verify], with allowed_signers or keyring': (
        "gpg_verify require_signed verify_signatures"
    ),
    "write username and password_file, token_file, or ssh_key": "git.secret_ref git.secret",
    "a password is in a file: write password_file in [git]": "git.password password",
    "a token is in a file: write token_file in [git]": "access_token git.token",
    "a token is in a file: write token_file in [git.status]": "status.token status.access_token",
    "secrets of a pod are encrypted, see [secrets]; what vaults hold is written into files": "vault",
    "nothing is pushed; remove it": "max_concurrent_uploads",
    "pulls have parallel and minimum_rate in [image]": (
        "registry_burst registry_pull_qps serialize_image_pulls"
    ),
    "name servers of pods are those of /etc/resolv.conf, or dns in [host]": "resolv_conf",
    "write url in [git] for pods from elsewhere": "manifest_url remote static_pod_url",
    "a GPU is named in devices of [containers.security] of a pod file; remove it": "node_generic_resources",
    "the user of tank-agent.service is root; remove it": ".user uid",
    "the agent is stopped and started by systemd: `systemctl restart tank-agent`": "pid_file",
    "the engine's tables are podman's; remove it": ".engine",
}
WITHOUT_KEY = by_word(REASONS)
