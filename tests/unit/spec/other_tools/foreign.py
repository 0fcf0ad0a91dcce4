"""Words that other tools have in their files: those that a user may write into a pod file or agent.toml.

Each list is of one tool's table, named after the table of ours into which its words would be written.
"""

from __future__ import annotations

COMPOSE = {
    "": "version include services models networks configs",
    "service": (
        "annotations attach build blkio_config cap_add cap_drop cgroup cgroup_parent configs container_name "
        "cpu_count cpu_percent cpu_shares cpu_quota cpu_period cpu_rt_period cpu_rt_runtime cpus cpuset "
        "credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search "
        "domainname entrypoint environment expose extends external_links extra_hosts gpus group_add "
        "healthcheck ipc isolation labels label_file links logging mac_address mem_limit mem_reservation "
        "mem_swappiness memswap_limit models net network_mode networks oom_kill_disable oom_score_adj pid "
        "pids_limit platform ports post_start pre_stop privileged profiles provider pull_policy "
        "pull_refresh_after restart runtime scale secrets security_opt stdin_open stop_grace_period "
        "storage_opt sysctls tmpfs use_api_socket userns_mode uts volume_driver volumes volumes_from"
    ),
    "deploy": (
        "endpoint_mode replicas rollback_config update_config resources restart_policy placement "
        "reservations "
        "generic_resources"
    ),
    "restart_policy": "condition delay max_attempts window",
    "health": "test disable",
    "mounts": (
        "type source target consistency bind create_host_path propagation selinux recursive nocopy size"
    ),
    "volumes": "driver driver_opts external labels",
    "network": (
        "driver driver_opts attachable enable_ipv4 enable_ipv6 internal ipam labels external name "
        "ipv4_address ipv6_address link_local_ips priority gw_priority mac_address interface_name"
    ),
    "files": "file environment external template_driver target uid gid",
    "secrets": "file environment external template_driver target uid gid content",
    "limits": "devices cpuset",
}
PODMAN_RUN = (
    "add-host annotation arch attach authfile blkio-weight blkio-weight-device cap-add cap-drop cgroup-conf "
    "cgroup-parent cgroupns cgroups chrootdirs cidfile conmon-pidfile cpu-period cpu-quota cpu-rt-period "
    "cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems decryption-key detach detach-keys device "
    "device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops "
    "disable-content-trust dns dns-option dns-search entrypoint env-host env-merge expose gidmap gpus "
    "group-add group-entry health-cmd health-interval health-log-destination health-max-log-count "
    "health-max-log-size health-on-failure health-retries health-start-period health-startup-cmd "
    "health-startup-interval health-startup-retries health-startup-success health-startup-timeout "
    "health-timeout hosts-file hostuser http-proxy image-volume init-path interactive ip ip6 ipc label "
    "label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap "
    "memory-swappiness mount network-alias no-healthcheck no-hostname no-hosts oom-kill-disable "
    "oom-score-adj "
    "os passwd passwd-entry personality pid pidfile pids-limit platform pod pod-id-file preserve-fd "
    "preserve-fds privileged publish publish-all quiet rdt-class read-only-tmpfs replace requires restart "
    "retry retry-delay rm rmi runtime sdnotify seccomp-policy secret security-opt shm-size-systemd sig-proxy "
    "stop-timeout storage-opt subgidname subuidname sysctl systemd timeout tls-verify tmpfs tz uidmap ulimit "
    "umask unsetenv unsetenv-all userns uts variant volume volumes-from workdir cgroup-manager isolation "
    "kernel-memory cpu-count cpu-percent io-maxbandwidth io-maxiops"
)
QUADLET = {
    "": "Container Pod Kube Unit Install Service Volume Network Timer PodName ServiceName ExitPolicy Yaml",
    "containers": (
        "AddCapability AddDevice AddHost Annotation AutoUpdate CgroupsMode ContainerName "
        "ContainersConfModule "
        "DNS DNSOption DNSSearch DropCapability Entrypoint Environment EnvironmentFile EnvironmentHost Exec "
        "ExposeHostPort GIDMap GlobalArgs Group GroupAdd HealthCmd HealthInterval HealthLogDestination "
        "HealthMaxLogCount HealthMaxLogSize HealthOnFailure HealthRetries HealthStartPeriod HealthStartupCmd "
        "HealthStartupInterval HealthStartupRetries HealthStartupSuccess HealthStartupTimeout HealthTimeout "
        "HttpProxy IP IP6 Label LogDriver LogOpt Mask Memory Mount Network NetworkAlias "
        "NoNewPrivileges Notify PidsLimit Pod PodmanArgs PublishPort ReadOnlyTmpfs ReloadCmd ReloadSignal "
        "Retry RetryDelay RunInit SeccompProfile Secret SecurityLabelDisable SecurityLabelFileType "
        "SecurityLabelLevel SecurityLabelNested SecurityLabelType ShmSize StartWithPod StopTimeout SubGIDMap "
        "SubUIDMap Sysctl Timezone Tmpfs UIDMap Ulimit Unmask UserNS Volume WorkingDir"
    ),
    "volumes": "Copy Device Driver GlobalArgs Group Image Label Options PodmanArgs Type User VolumeName",
    "network": (
        "DisableDNS Driver Gateway GlobalArgs Internal IPAMDriver IPRange IPv6 InterfaceName Label "
        "NetworkDeleteOnStop NetworkName Options PodmanArgs Subnet"
    ),
}
SYSTEMD = (
    "Description Documentation Before Requires Wants BindsTo PartOf Conflicts ConditionPathExists "
    "AssertPathExists OnFailure OnSuccess StartLimitIntervalSec StartLimitBurst Type ExecStart ExecStartPre "
    "ExecStartPost ExecStop ExecStopPost ExecReload ExecCondition RestartSec RestartSteps RestartMaxDelaySec "
    "TimeoutStartSec TimeoutStopSec TimeoutSec RuntimeMaxSec WatchdogSec RemainAfterExit SuccessExitStatus "
    "KillMode KillSignal Group DynamicUser WorkingDirectory RootDirectory RootImage EnvironmentFile "
    "PassEnvironment StandardInput StandardOutput StandardError SyslogIdentifier LimitNOFILE LimitNPROC "
    "LimitCORE LimitMEMLOCK Nice OOMScoreAdjust MemoryMax MemoryHigh MemoryLow MemoryMin MemorySwapMax "
    "CPUQuota CPUWeight CPUAffinity AllowedCPUs TasksMax IOWeight Slice Delegate PrivateTmp ProtectSystem "
    "ProtectHome NoNewPrivileges CapabilityBoundingSet AmbientCapabilities ReadOnlyPaths ReadWritePaths "
    "BindPaths BindReadOnlyPaths TemporaryFileSystem DeviceAllow PrivateDevices PrivateNetwork "
    "SystemCallFilter RuntimeDirectory StateDirectory CacheDirectory LogsDirectory ConfigurationDirectory "
    "LoadCredential LoadCredentialEncrypted SetCredential SetCredentialEncrypted UMask PIDFile NotifyAccess "
    "WantedBy RequiredBy Alias Also DefaultInstance OnCalendar OnBootSec OnActiveSec OnStartupSec "
    "OnUnitActiveSec OnUnitInactiveSec Persistent RandomizedDelaySec AccuracySec SupplementaryGroups"
)
KUBERNETES = {
    "": (
        "apiVersion kind metadata spec activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig "
        "dnsPolicy enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers "
        "imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy priority "
        "priorityClassName readinessGates replicas restartPolicy runtimeClassName schedulerName "
        "securityContext serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain "
        "terminationGracePeriodSeconds tolerations topologySpreadConstraints resourceClaims selector "
        "template strategy minReadySeconds progressDeadlineSeconds revisionHistoryLimit paused annotations "
        "namespace timeZone concurrencyPolicy startingDeadlineSeconds suspend successfulJobsHistoryLimit "
        "failedJobsHistoryLimit jobTemplate backoffLimit completions parallelism ttlSecondsAfterFinished "
        "completionMode podManagementPolicy volumeClaimTemplates"
    ),
    "containers": (
        "envFrom imagePullPolicy lifecycle livenessProbe ports readinessProbe resizePolicy resources "
        "restartPolicy securityContext startupProbe stdin stdinOnce terminationMessagePath "
        "terminationMessagePolicy volumeDevices volumeMounts workingDir"
    ),
    "security": (
        "allowPrivilegeEscalation procMount readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser "
        "seLinuxOptions seccompProfile windowsOptions appArmorProfile fsGroup fsGroupChangePolicy "
        "supplementalGroups sysctls"
    ),
    "volumes": (
        "hostPath emptyDir configMap secret persistentVolumeClaim downwardAPI projected nfs csi iscsi "
        "ephemeral local"
    ),
    "mounts": "mountPath subPath subPathExpr readOnly mountPropagation name",
    "health": (
        "httpGet tcpSocket grpc initialDelaySeconds periodSeconds timeoutSeconds successThreshold "
        "failureThreshold terminationGracePeriodSeconds"
    ),
    "limits": "requests limits claims ephemeral-storage",
}
NOMAD = {
    "": (
        "job group task driver config count constraint affinity spread datacenters region namespace type "
        "priority periodic parameterized reschedule migrate service volume ephemeral_disk shutdown_delay "
        "artifact template vault consul meta scaling kill_timeout kill_signal logs resources identity action "
        "leader variables"
    ),
    "containers": (
        "driver config artifact template vault kill_timeout kill_signal leader lifecycle logs meta resources "
        "volume_mount dispatch_payload identity service constraint force_pull auth work_dir"
    ),
    "limits": "cores memory_max device disk network",
    "update": (
        "max_parallel health_check min_healthy_time healthy_deadline progress_deadline auto_revert "
        "auto_promote canary stagger"
    ),
}

# Keys of the files that configure the service itself, each in the place of agent.toml where it would be.
DOCKERD = (
    "allow-direct-routing api-cors-header authorization-plugins bip bridge cgroup-parent containerd "
    "data-root debug default-address-pools default-cgroupns-mode default-gateway default-gateway-v6 "
    "default-ipc-mode default-network-opts default-runtime default-shm-size default-ulimits dns dns-opts "
    "dns-search exec-opts exec-root experimental features firewall-backend fixed-cidr fixed-cidr-v6 "
    "group hosts "
    "icc init init-path insecure-registries ip ip-forward ip-masq iptables ip6tables ipv6 labels "
    "live-restore "
    "log-driver log-format log-level log-opts max-concurrent-downloads max-concurrent-uploads "
    "max-download-attempts metrics-addr mtu no-new-privileges node-generic-resources oom-score-adjust "
    "pidfile "
    "proxies raw-logs registry-mirrors runtimes seccomp-profile selinux-enabled shutdown-timeout "
    "storage-driver "
    "storage-opts swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy "
    "userland-proxy-path userns-remap builder graph"
)
PODMAN_CONF = (
    "annotations apparmor_profile base_hosts_file cgroupns cgroups default_capabilities default_sysctls "
    "default_ulimits devices dns_options dns_searches dns_servers env env_host http_proxy init ipcns label "
    "log_driver log_size_max log_tag log_path netns no_hosts oom_score_adj pidns pids_limit "
    "prepare_volume_on_create "
    "privileged read_only seccomp_profile shm_size tz umask userns utsns volumes cni_plugin_dirs "
    "default_network default_subnet default_subnet_pools firewall_driver netavark_plugin_dirs "
    "network_backend "
    "cgroup_manager conmon_path container_exits engine events_logger image_default_transport "
    "image_parallel_copies "
    "infra_image lock_type network_cmd_path num_locks pull_policy remote runtime short_name_mode "
    "static_dir stop_timeout tmp_dir volume_path driver graphroot runroot mount_program "
    "unqualified-search-registries registries"
)
KUBELET = (
    "apiVersion kind address authentication authorization cgroupDriver cgroupRoot clusterDNS clusterDomain "
    "containerLogMaxFiles containerLogMaxSize containerRuntimeEndpoint evictionHard featureGates "
    "hostnameOverride imageGCHighThresholdPercent imageGCLowThresholdPercent imageMinimumGCAge kubeReserved "
    "logging maxParallelImagePulls maxPods nodeLabels podCIDR podPidsLimit port readOnlyPort registerNode "
    "registryPullQPS resolvConf rotateCertificates seccompDefault serializeImagePulls staticPodPath "
    "staticPodURL "
    "syncFrequency systemReserved tlsCertFile tlsPrivateKeyFile"
)
GITOPS = "interval ref secretRef targetRevision syncPolicy prune selfHeal suspend repoURL revision"
NOMAD_AGENT = (
    "datacenter region server client bind_addr log_level plugin telemetry advertise acl consul vault "
    "name ports "
    "leave_on_interrupt disable_update_check"
)
