"""Words of other tools for which a pod file has no key of that kind, and why, or what instead.

A word counts in every table, "table.word" in that table only, ".word" at the top of a pod.
"""

from __future__ import annotations

from tank_agent.spec.network_values import NO_DHCP
from tank_agent.spec.other_tools.form import by_word

_GPU = 'write devices = ["nvidia.com/gpu=all"] in [containers.security]'
_IN_MOUNT = 'it belongs into [[containers.mounts]], beside {0} = "…"'
_OF_CONTENT = ("target", "destination", "mode", "owner", "on_change", "uid", "gid")
_AT_ONCE = (
    "auto_promote canary delay health_check max_failure_ratio max_parallel max_surge max_unavailable order "
    "parallelism rolling_update stagger type"
)


def _in_table(table: str, words: str) -> str:
    return " ".join(f"{table}.{word}" for word in words.split())


# The sentence → the words.
_OF_MANIFESTS = {
    "a pod file has no version; remove it": "api_version version",
    "`tank import compose FILE` makes pod files of it: one service a pod, with its [[containers]]": (
        ".include .services"
    ),
    'write [[containers]] with name = "app" and image = "…"': ".image",
    "write [[containers]]; `tank import quadlet FILE` makes a pod file of a unit": ".container",
    "`tank import quadlet FILE` makes a pod file of it, with [[containers]]": (
        ".install .kube .pod .service .unit .yaml"
    ),
    "this is a manifest of Kubernetes; write its containers as [[containers]] with name and image": (
        ".kind .metadata .spec .job_template"
    ),
    "this is a job of Nomad; write each group as a pod, and its tasks as [[containers]]": (
        ".job .task task_groups"
    ),
    "write the keys of the program itself in [[containers]], as image, command, args and mounts": (
        "config driver driver_config"
    ),
    "files of variables and loops are for other tools; write the values": "for_each locals variable",
    "the words that people read go into comments, as # text; remove it": (
        "annotation annotations description documentation meta"
    ),
    "labels for other tools, such as traefik, mean nothing here; remove it (labels at the top of a pod "
    "select the machines that run it)": (
        "containers.labels label_file labels_file .label containers.label network.label network.labels "
        "volumes.label volumes.labels"
    ),
    "a machine has one of each pod; remove it, or write a second file": (
        "count replicas scale scaling .instances"
    ),
    "each file stands for itself, and nothing is taken from another; remove it": (
        "containers_conf_module default_instance extends include"
    ),
    "there are no templates; write the file as it is to be, or make it with what makes your repository": (
        "template template_driver templates templating"
    ),
    "write one file a machine, or hosts and labels in the file for the machines that it is for": (
        "affinity constraint constraints datacenters namespace node_name node_selector placement region "
        "scheduler_name spread tolerations topology_spread_constraints"
    ),
    "write hosts or labels for the machines that it is for, or leave the file out": (
        "condition_host condition_path_exists assert_path_exists profiles"
    ),
    "take the file away, or type `tank stop NAME`; its volumes stay": (
        "disabled enabled paused suspend suspended"
    ),
    "write cpu_weight in [containers.limits] for a larger share of CPU time": (
        "cpu_scheduling_priority nice preemption_policy priority priority_class_name"
    ),
    "pods don't exclude each other; remove it": "conflicts",
    "each pod stands for itself, and its containers are in its file; remove it": (
        "containers.pod containers.service selector"
    ),
    "every pod starts with the machine; remove it": (
        "also alias auto_start enable on_boot required_by service_name start_on_boot start_with_pod wanted_by"
    ),
    "it is for containers that are started by hand; remove it": (
        "attach cidfile conmon_pidfile detach detach_keys exit_policy health_log_destination "
        "health_max_log_count health_max_log_size interactive leader pid_file pod_id_file "
        "podman_args global_args quiet remain_after_exit replace rm rmi sig_proxy "
        "stop_after_client_disconnect ttl_seconds_after_finished"
    ),
}
_OF_RUNS = {
    "arguments are called args; the exec of a probe belongs in [containers.health]": "containers.exec",
    "write init = true in one of the [[containers]], which then runs before the others": (
        "exec_condition exec_start_pre init_containers pre_start"
    ),
    "there are no hooks; a container with init = true runs before the others": (
        "exec_start_post exec_stop_post lifecycle post_start post_stop"
    ),
    "there are no hooks; the program gets stop_signal, and has stop_grace to end; remove it": (
        "exec_stop kill_mode pre_stop shutdown_delay"
    ),
    'files and secrets tell of a change: write on_change = "signal:HUP" in their [[containers.mounts]]': (
        "exec_reload reload_cmd reload_signal"
    ),
    "zombies are reaped where the image's program does it; write an image with tini or dumb-init": (
        "init_path run_init"
    ),
    "restarts go on, with a delay that grows as [reconcile] in agent.toml says; remove it": (
        "max_attempts restart_delay restart_interval restart_max_delay_sec restart_sec restart_steps "
        ".delay attempts "
        "start_limit_burst start_limit_interval_sec .window restart.window"
    ),
    'write restart = "always", "on-failure" or "never"': ".condition reschedule",
    'write restart = "on-failure", or "never"': "backoff_limit completions completion_mode",
    'write after = ["…"] in the one that waits': "before required_by_pods",
    "nothing is mailed: a failed run is in tank status and tank events -o json; remove it": "mail_to",
    "`tank events -f -o json` tells of it; remove it": ".on_failure containers.on_failure on_success",
    "a job never runs twice at once; remove it": "concurrency_policy prohibit_overlap",
    "the last 10 runs are kept; remove it": (
        "failed_jobs_history_limit revision_history_limit successful_jobs_history_limit"
    ),
    "choose a minute of its own for each machine in schedule; remove it": (
        "accuracy_sec random_delay randomized_delay_sec fixed_random_delay"
    ),
    'write schedule = "@daily", or cron\'s five fields': (
        "on_active_sec on_boot_sec on_startup_sec on_unit_active_sec on_unit_inactive_sec"
    ),
    "write a job, and type `tank run NAME` for one more run": "dispatch_payload parameterized",
    "crun runs each container; remove it": (
        "cgroup_manager cgroup_parent cgroupns cgroups cgroups_mode cgroup cgroup_conf delegate isolation "
        "runtime_class_name slice systemd security.windows_options sdnotify notify_access"
    ),
    f"crun runs each container; remove it, and for a GPU {_GPU}": "runtime",
    "a container that runs for a second is ready; write [containers.health] for more": (
        "notify .type containers.type readiness_gates watchdog_sec"
    ),
    "a container ends well with 0 only; remove it": "success_exit_status",
    "there is no limit for the start; [update] has the deadline of an update": (
        "timeout_start_sec timeout_sec"
    ),
    "the agent keeps what is printed, see [logs] in agent.toml and `tank logs`; remove it": (
        "log log_driver log_opt log_opts logging logs standard_error standard_output syslog_identifier "
        "termination_message_path termination_message_policy"
    ),
    "write tty = true for `tank attach`; without it there is nothing to read": (
        "standard_input stdin stdin_once stdin_open"
    ),
    "write name in [[containers]]; the pod's name is the file's": "container_name",
    "the variables of the agent are not passed on; write them in env": (
        "env_host env_merge environment_host pass_environment unset_env unset_env_all http_proxy"
    ),
    "the umask is the program's own; remove it": "umask personality",
    'the time zone of a program is a variable: write env = { TZ = "Europe/Berlin" }': (
        "containers.tz containers.timezone"
    ),
}
_OF_IMAGES = {
    "images are built elsewhere, and pulled by image; remove it": (
        "build builder context develop dockerfile watch"
    ),
    'write image = "digest" in [update] of the pod': "auto_update pull_refresh_after",
    'write image = "digest"': "update.policy",
    "an image of this machine's architecture is taken; remove it": "arch os platform variant",
    "pulls are tried again by themselves; remove it": "retry retry_delay pull_timeout",
    "credentials are the machine's: `auth_files` in [image] of agent.toml names their file; remove it": (
        "auth auth_file auth_config image_pull_secrets image_pull_secret registry_auth"
    ),
    'what a registry must prove is in agent.toml: write [registry."HOST"] insecure = true': (
        "disable_content_trust insecure insecure_skip_verify tls_verify decryption_key signature_policy"
    ),
    'write pull = "always"': "force_pull always_pull",
    "an image's VOLUMEs are directories of the container; mount a volume there to keep them": "image_volume",
    "a volume begins empty where its mount has no from_image; remove it": "no_copy",
    "write image, or rootfs with a directory of the host": "root_image",
    "get it in an image, or in the files of the pod": "artifact",
    "there are no language models; run one in a container": "models provider",
}
_OF_NETWORKS = {
    f'{NO_DHCP} ip = "10.0.0.5/24"': "dhcp dhcp4 dhcp6",
    "pods of one bridge reach each other by their names, and by aliases in [network]; remove it": (
        "consul enable_service_links endpoint_mode containers.link external_links .link links"
    ),
    "the MAC address follows from the machine, the pod and the interface, and stays; remove it": (
        "mac mac_address"
    ),
    "the first of its bridges has the default route; remove it": "gw_priority network.priority",
    "a bridge is made when a pod names it; remove it": "network.external",
    "a bridge needs no more than its name; its network is one of [network.bridge] in agent.toml": (
        "attachable driver_opts enable_ipv4 enable_ipv6 ip_range ipam ipam_driver link_local_ip "
        "link_local_ips "
        "network.driver network.gateway network.ip_range network.ipv6 network.subnet "
        "network_delete_on_stop subnet"
    ),
    "its interface in the first bridge is eth0, in the second eth1; remove it": "interface_name",
    "pods of one bridge reach all of each other's ports, and ports is for all others; remove it": (
        "expose expose_host_port"
    ),
    'write ports = ["8080:80"] for each port that others need': "publish_all",
    'every bridge leads out; a pod that reaches nobody has network = "none" in place of the table': (
        "internal"
    ),
    'write network = "none"': "private_network network_disabled",
    'write network = "host"': "host_network",
    'write network = "host" or "none" in place of the table, or bridges or nics in it': "network.mode",
    'write bridges = ["…"] with the name': "network.name network_name",
    "write dns, dns_search and dns_options in [network]": "dns_config",
    "the host's name servers count unless [network] has dns; remove it": "disable_dns dns_enabled dns_policy",
    'write hostname = "NAME.LAN", or dns_search in [network]': "domainname set_hostname_as_fqdn subdomain",
    "/etc/hosts and /etc/hostname are the pod's; write extra_hosts in [network] for more names": (
        "hosts_file no_hostname no_hosts"
    ),
    "the MTU is the parent's; remove it": "nics.mtu",
    "an interface on the LAN is macvlan, which needs not be said; remove it": "nics.type nics.driver",
    "each container has a UTS namespace of its own; remove it": "uts",
    'the ports are the pod\'s; write one such as "8080:80" in ports at the top of the pod': "app_protocol",
}
_OF_HEALTH = {
    "write http, tcp or exec": "health.kind health.type",
    'write exec = ["pg_isready"]': _in_table("health", "args cmd command shell"),
    "it is called timeout, and belongs in [containers.health]": "health_timeout",
    "write image = false": "health.disable health.disabled",
    "remove the table, or write image = false": "health.enabled",
    "probes go to the pod itself; remove it": "health.address health.host health.hostname http.address",
    'write http = { port = 8080, path = "/healthz" }': "health.path health.uri health.url",
    "write http = { port = 8080 } or tcp = 5432": "health.port health.ports",
    'probes go to the pod itself; remove it, or write headers = { Host = "…" }': "http.host http.hostname",
    "a probe is a GET request; remove it": "http.method",
    "write tls = true for https": "http.https http.protocol http.scheme",
    'write path = "/healthz"': "http.uri http.url",
    'there is no probe by gRPC; write tcp, or exec = ["grpc_health_probe", "-addr=:8080"]': "grpc",
    "write health = { image = false }": "no_healthcheck",
    "one success is enough; remove it": "health_startup_success success_threshold success_before_passing",
    "until the first success start_period and start_interval count; write them in [containers.health]": (
        "health_startup_retries health_startup_timeout"
    ),
    "stop_grace of the container counts; remove it": "health.termination_grace_period_seconds",
}
_OF_UPDATES = {
    "a machine has one of each pod, which is replaced as a whole; remove it": _in_table("update", _AT_ONCE)
    + " migrate pod_management_policy parallelism",
    "an update that failed is undone at once, and as a whole; remove it": "rollback_config",
    "write limits in [[containers]], and [update] in the pod": "deploy",
}
_OF_LIMITS = {
    'write cpu = 0.5 in [containers.limits] for an amount of CPU time, or cpus = "0-3" for which CPUs': (
        "containers.cpus"
    ),
    "write cpu = 0.5 in [containers.limits]: 1 is a core, which is 100 percent, or 1000m": (
        "cpu_count cpu_percent cpu_quota_percent"
    ),
    "write cpu = { quota = 50000, period = 100000 } in [containers.limits], or cpu = 0.5": (
        "cpu_cfs_period cpu_cfs_quota cpu_period cpu_quota"
    ),
    "write cpu_weight in [containers.limits], where 100 is what 1024 shares are": "cpu_shares",
    "no program gets real-time priority; remove it": "cpu_rt_period cpu_rt_runtime rdt_class",
    "the kernel chooses the memory of NUMA; write cpus in [containers.limits]": "cpuset_mems",
    "write swap, which is the swap alone, in [containers.limits]": "memory_swap memswap_limit",
    "there is no limit that only slows; write memory, or memory_reservation, in [containers.limits]": (
        "memory_high"
    ),
    "write memory, which is the most, and memory_reservation, which is kept": "memory_max_mb limits.requests",
    "it is the machine's; remove it": "mem_swappiness memory_swappiness kernel_memory",
    "memory and memory_reservation decide; remove it": (
        "oom_kill_disable oom_score_adj oom_score_adjust overhead"
    ),
    "write the limits themselves in [containers.limits]: memory, memory_reservation, cpu and pids": (
        "limits.limits reservations resize_policy"
    ),
    "there are no limits of I/O; remove it": (
        "blkio_config blkio_weight blkio_weight_device device_read_bps device_read_iops device_write_bps "
        "device_write_iops io_max_bandwidth io_max_iops io_weight weight_device"
    ),
    "there are no limits of disk space; remove it, or mount a tmpfs, which has a size": (
        "disk ephemeral_disk ephemeral_storage storage_opt storage_opts disk_quota"
    ),
    "write ulimits = { nofile = 65536 } in [[containers]], with the name of the limit": (
        "limit_as limit_core limit_memlock limit_nofile limit_nproc limit_stack"
    ),
    _GPU: "cdi cdi_devices device_requests generic_resources gpu gpus limits.claims resource_claims",
}
_OF_MOUNTS = {
    'write [[containers.mounts]] with file = "…" and path = "/…"': "containers.configs containers.files",
    'write [[containers.mounts]] with secret = "…"': "containers.secrets containers.secret",
    'write [[containers.mounts]] with tmpfs = "64M" and path = "/…"': (
        "containers.ramdisk .tmpfs containers.tmpfs temporary_file_system"
    ),
    'write [[containers.mounts]] with volume = "…" and path = "/…"': (
        "containers.mount containers.volume containers.volume_mount containers.volumes volume_devices"
    ),
    "write [[containers.mounts]] with volume and path for each volume": "volumes_from",
    'write [[volumes]] with name = "…" and host = "/…", and mount it': "bind_paths bind_read_only_paths",
    'write [[volumes]] with name = "…", and mount it where the program writes': (
        "cache_directory configuration_directory logs_directory state_directory read_write_paths "
        "runtime_directory volume_claim_templates"
    ),
    "write read_only = true in [[containers]]": "security.read_only_root_filesystem",
    'write [[volumes]] with name = "…", and [[containers.mounts]] with volume = "…" and path = "/…"': (
        ".mount .mounts .volume"
    ),
    'write [[secrets]] with name = "…", and [[containers.mounts]] with secret = "…"': ".secret",
    "write read_only = true in [[containers.mounts]], or in [[containers]] for the root file system": (
        "read_only_paths inaccessible_paths protect_home protect_system"
    ),
    "with read_only = true /tmp, /run and /var/tmp are in memory; remove it": (
        "private_tmp read_only_tmpfs shm_size_systemd"
    ),
    'write tmpfs = "64M"': "mounts.size mounts.empty_dir",
    "what is mounted is told by volume, file, secret or tmpfs": (
        _in_table("mounts", "bind config host name source src type")
    ),
    "mounts are private, and follow none of the host's; remove it": (
        "bind_options chrootdirs consistency create_host_path mount_propagation propagation recursive"
    ),
    'write subpath = "…", without variables': "sub_path_expr",
    "there is no SELinux here; remove it": (
        "se_linux_options security_label_disable security_label_file_type security_label_level "
        "security_label_nested security_label_type selinux security.selinux"
    ),
    'write host = "/srv/data"': _in_table("volumes", "device host_path local path source mountpoint"),
    "what no pod has is a directory of the host: mount it there, and write host": (
        _in_table("volumes", "csi driver iscsi nfs options persistent_volume_claim projected type")
        + " volume_driver"
    ),
    "remove the volume, and write tmpfs in [[containers.mounts]]": "volumes.empty_dir volumes.tmpfs",
    "remove the volume, and write [[files]]": "volumes.config_map volumes.downward_api",
    "remove the volume, and write [[secrets]]": "volumes.secret",
    "a new volume gets the owner of the image's directory, or the container's user; remove it": (
        "fs_group fs_group_change_policy volumes.gid volumes.group volumes.mode volumes.owner volumes.uid "
        "volumes.user"
    ),
    "a managed volume is made by the agent; remove it": "volumes.image volumes.ephemeral volumes.volume_name",
    'write source = "…"': "files.file files.path secrets.file secrets.path",
    'write content = """…"""': "files.data files.text files.environment",
    'remove the table; a volume with host = "/…" is a file of the host': "files.external",
    **{
        _IN_MOUNT.format(table): _in_table(f"{table}s", " ".join(_OF_CONTENT)) for table in ("file", "secret")
    },
    'a secret is encrypted: write age = """…""", or source = "x.age"': "secrets.content secrets.value",
    "a password in a variable is seen by many; write source, age or host": "secrets.environment secrets.env",
    'write host = "/etc/keys/x", a file of the host': "secrets.external",
    'write [[secrets]] with source = "x.age", which `tank secret encrypt` makes, or host': (
        "credential_spec load_credential load_credential_encrypted set_credential set_credential_encrypted "
        "vault"
    ),
}
_OF_SECURITY = {
    "type the command after `tank exec NAME`; remove it": "action actions",
    'write capabilities = { add = ["…"] } in [containers.security]': (
        "add_capability ambient_capabilities cap_add"
    ),
    'write capabilities = { drop = ["…"] } in [containers.security]': (
        "cap_drop capability_bounding_set drop_capability"
    ),
    "no program gains privileges, unless its container is privileged; remove it": (
        "allow_privilege_escalation no_new_privileges no_new_privs"
    ),
    "write keys such as user, read_only and [containers.security] in [[containers]]": "security_context",
    "write seccomp and apparmor in [containers.security]": "seccomp_policy security_opt system_call_filter",
    "masked paths are so unless the container is privileged; remove it": "mask proc_mount unmask",
    'write userns = "auto" or "host" in [containers.security]': (
        "gid_map host_users sub_gid_map sub_gid_name sub_uid_map sub_uid_name uid_map userns_mode"
    ),
    'write user = "1000:1000" in [[containers]]': (
        ".group containers.group dynamic_user group_entry host_user passwd passwd_entry run_as_group "
        "run_as_non_root security.run_as_user security.user"
    ),
    "write the devices, or their directory, in devices of [containers.security]": (
        "device_cgroup_rule device_cgroup_rules"
    ),
    "a container sees only those in devices of [containers.security]; remove it": "private_devices",
    "each container has an IPC namespace of its own, and shm_size for /dev/shm; remove it": "host_ipc ipc",
    "each container has a PID namespace of its own; remove it": "host_pid pid share_process_namespace",
    'no pod gets the socket by itself; for one that must, write a volume with host = "/run/tank/tank.sock"': (
        "use_api_socket"
    ),
    "there are no accounts of pods; remove it": (
        "automount_service_account_token identity service_account service_account_name"
    ),
    "a program is given no open files; remove it": "preserve_fd preserve_fds",
    "nothing is put into a pod that runs; `tank exec NAME -- sh` runs a shell in it": "ephemeral_containers",
}
TABLES = (
    *(_OF_MANIFESTS, _OF_RUNS, _OF_IMAGES, _OF_NETWORKS, _OF_HEALTH, _OF_UPDATES, _OF_LIMITS, _OF_MOUNTS),
    _OF_SECURITY,
)
WITHOUT_KEY: dict[str, str] = {word: reason for table in TABLES for word, reason in by_word(table).items()}
