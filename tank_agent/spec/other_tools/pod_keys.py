"""Keys of other tools that users write into a pod file, each with those of ours that it may mean.

Upper and lower case, dashes and underscores make no difference, see `form.folded`.
"""

from __future__ import annotations

from tank_agent.spec.other_tools.form import by_ours

_KEYS = {
    "after": "binds_to depends depends_on needs part_of requires requisite upheld_by wants",
    "aliases": "alias_names net_alias network_alias network_aliases",
    "apparmor": "app_armor_profile",
    "args": "arguments cmd command_args",
    "base64": "binary_data",
    "bridges": "bridge networks",
    "catch_up": "persistent starting_deadline_seconds",
    "command": "entrypoint exec_start",
    "content": "data dockerfile_inline",
    "cpu": "cores cpu_cores cpu_limit nanocpus number_of_cpus",
    "cpus": "allowedcpus cpu_affinity cpu_list cpu_set cpuset_cpus",
    "deadline": "healthy_deadline progress_deadline progressdeadlineseconds",
    "devices": "add_device device device_allow",
    "dns": "dns_ip dns_server dns_servers nameserver nameservers resolver resolvers servers",
    "dns_options": "dns_opt dns_opts dnsoption options",
    "dns_search": "domains search search_domains searches",
    "env": "env_vars environment environment_variables envs variables vars",
    "env_file": "dotenv env_files envfrom environment_file",
    "exec": "health_cmd health_command health_startup_cmd test",
    "extra_hosts": "add_host add_hosts etc_hosts host_aliases hosts_entries",
    "files": "config_map config_maps configs",
    "gateway": "gateway4 gateway6 gateways gw",
    "from_image": "copy copy_up",
    "groups": "additional_gids group_add supplemental_groups supplementary_groups",
    "headers": "header http_header http_headers",
    "health": (
        "check checks health_check health_checks health_probe liveness liveness_probe probe probes "
        "readiness readiness_probe startup_probe"
    ),
    "hostname": "machine_name uts_name",
    "hosts": "hostnames machines node nodes targets",
    "http": "http_get",
    "image": "image_name img",
    "init": "init_container is_init",
    "interval": "check_interval health_interval period_seconds",
    "ip": "address addresses ip4 ip6 ip_address ips ipv4 ipv4_address ipv6 ipv6_address static_ip",
    "limits": "resources",
    "max_restarts": "max_failures max_restart",
    "memory": "max_memory mem mem_limit memory_bytes memory_limit memory_max ram",
    "memory_reservation": "mem_reservation memory_low memory_min memory_request soft_memory",
    "min_healthy": "min_healthy_for min_healthy_time min_ready_seconds monitor",
    "mode": "default_mode permissions",
    "mounts": "volume_mounts",
    "name": "pod_name",
    "network": "net network_mode networks",
    "nics": "interface interfaces nic",
    "on_change": "change_mode reload",
    "on_failure": "check_restart failure_policy health_on_failure",
    "owner": "chown gid uid",
    "parent": "device link master",
    "path": "destination endpoint mountpath target",
    "pids": "max_pids nproc_limit pid_limit pids_limit processes tasks_max",
    "ports": (
        "container_port host_port port port_bindings portmappings publish publish_port publish_ports "
        "published"
    ),
    "privileged": "privilege",
    "pull": "image_policy image_pull_policy pull_policy",
    "read_only": "read_only_root_filesystem ro",
    "restart": "restart_always restart_mode restart_policy",
    "retries": "failure_threshold failures_before_critical health_retries unhealthy_threshold",
    "rollback": "auto_revert failure_action",
    "rootfs": "root_dir root_directory",
    "schedule": "calendar cron cron_job crontab on_calendar periodic timer",
    "seccomp": "seccomp_profile",
    "secrets": "credential credentials secret_files",
    "shared": "external",
    "shm_size": "dev_shm shm",
    "start_interval": "health_start_interval health_startup_interval",
    "start_period": "health_start_period initial_delay initial_delay_seconds",
    "stop_grace": (
        "grace_period kill_timeout shutdown_timeout stop_grace_period stop_grace_time stop_timeout "
        "termination_grace_period terminationgraceperiodseconds timeout_stop_sec"
    ),
    "stop_signal": "kill_signal shutdown_signal signal_stop stop_sig",
    "subpath": "volume_subpath",
    "swap": "memory_swap_max swap_limit swap_max swap_memory",
    "sysctls": "sysctl",
    "tcp": "tcp_socket",
    "time_zone": "time_zones tz tzname",
    "timeout": ("active_deadline_seconds max_runtime runtime_max runtimemaxsec time_limit timeout_seconds"),
    "tmpfs": "empty_dir ramdisk",
    "tty": "pseudo_tty terminal",
    "ulimits": "limits_conf rlimit rlimits ulimit",
    "update": "strategy update_config update_strategy",
    "user": "run_as run_as_user uid_gid username",
    "volumes": "persistent_volumes storage storages",
    "working_dir": "chdir cwd pwd work_dir working_directory working_folder",
}
OTHER_TOOLS = by_ours(_KEYS)
