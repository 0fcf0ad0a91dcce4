"""The table of system calls that a container may make, for `seccomp`.

Every call is in one of three places:

    ALLOWED      what ordinary server programs use; the kernel's own permission checks still apply
    REFUSED      answers EPERM: the program asks for power over the machine, and shall see a refusal
    (neither)    answers ENOSYS: the program sees an older kernel, and takes its fallback

Left out on purpose, so that they answer ENOSYS:
    clone3              its flags are behind a pointer, where a filter can't look; libcs fall back to clone
    io_uring_*          its operations (openat, connect, ...) pass by this filter, and it was often the way to
                        root in past kernels; programs that know it fall back to epoll or aio
    modify_ldt, uselib, sysfs, ustat, statmount, listmount and the calls that no kernel implements any more
Kept although they look dangerous:
    ptrace, process_vm_*    since Linux 4.8 a tracer can't step around a filter, and in its own pid namespace
                            a container only reaches itself; debuggers and sanitizers need them
    chroot, mknod, chown    the container's capabilities and its device cgroup decide

The names are libseccomp's; the numbers behind them are the kernel's (arch/*/entry/syscalls, syscalls(2)).
"""

from __future__ import annotations

from collections.abc import Mapping


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILES = """
    chdir close close_range copy_file_range dup dup3 faccessat faccessat2 fadvise64 fallocate fchdir
    fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate getcwd getdents64 getxattr inotify_add_watch inotify_init1
    inotify_rm_watch ioctl lgetxattr linkat listxattr llistxattr lremovexattr lseek lsetxattr mkdirat
    mknodat name_to_handle_at newfstatat openat openat2 pipe2 pread64 preadv preadv2 pwrite64 pwritev
    pwritev2 read readahead readlinkat readv removexattr renameat renameat2 sendfile setxattr splice
    statfs statx symlinkat sync sync_file_range syncfs tee truncate umask unlinkat utimensat write
    writev
"""
_MEMORY = """
    brk get_mempolicy madvise mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
    mmap mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    remap_file_pages set_mempolicy set_mempolicy_home_node
"""
_PROCESSES = """
    capget capset chroot execve execveat exit exit_group getcpu getegid geteuid getgid getgroups getpgid
    getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get
    ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open
    pidfd_send_signal prctl prlimit64 process_mrelease process_vm_readv process_vm_writev ptrace
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp setfsgid setfsuid setgid setgroups setpgid setpriority
    setregid setresgid setresuid setreuid setrlimit setsid setuid sysinfo times uname wait4 waitid
"""
_SIGNALS_AND_THREADS = """
    futex futex_waitv get_robust_list restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo set_robust_list
    set_tid_address sigaltstack tgkill tkill
"""
# adjtimex and clock_adjtime read the clock's state, too; setting it takes CAP_SYS_TIME.
_TIME = """
    adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep
    setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime
"""
_WAITING = """
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 io_cancel io_destroy io_getevents
    io_pgetevents io_setup io_submit ppoll pselect6 signalfd4
"""
# socket itself is filtered by its family, see SOCKET_FAMILIES.
_NETWORK = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""
_IPC = """
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
    semctl semget semop semtimedop shmat shmctl shmdt shmget
"""
_RANDOM = "getrandom"

# Newer than Debian 12's libseccomp (2.5.4), which skips them with a warning; they then answer ENOSYS.
NEWER = _names(
    """
    cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listxattrat mseal removexattrat
    setxattrat
    """
)

ALLOWED = NEWER | _names(
    _FILES + _MEMORY + _PROCESSES + _SIGNALS_AND_THREADS + _TIME + _WAITING + _NETWORK + _IPC + _RANDOM
)

# Calls that only one machine has: on x86_64 those that later architectures dropped for their *at forms.
MACHINE_ALLOWED: Mapping[str, frozenset[str]] = {
    "x86_64": _names(
        """
        access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_wait eventfd fork futimesat
        get_thread_area getdents getpgrp inotify_init lchown link lstat mkdir mknod open pause pipe poll
        readlink rename rmdir select set_thread_area signalfd stat symlink time unlink utime utimes
        vfork
        """
    ),
    "aarch64": frozenset(),
}

# Calls that a capability opens when a pod's security table adds it. No container gets the rest of REFUSED.
CAPABILITY_ALLOWED: Mapping[str, frozenset[str]] = {
    "CAP_BPF": frozenset({"bpf"}),
    "CAP_DAC_READ_SEARCH": frozenset({"open_by_handle_at"}),
    "CAP_PERFMON": frozenset({"perf_event_open"}),
    "CAP_SYSLOG": frozenset({"syslog"}),
    "CAP_SYS_ADMIN": _names(
        """
        bpf fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount
        mount_setattr move_mount open_tree perf_event_open pivot_root quotactl quotactl_fd setdomainname
        sethostname setns syslog umount2 unshare
        """
    ),
    "CAP_SYS_BOOT": frozenset({"reboot"}),
    "CAP_SYS_MODULE": frozenset({"delete_module", "finit_module", "init_module"}),
    "CAP_SYS_NICE": frozenset({"migrate_pages", "move_pages"}),
    "CAP_SYS_PACCT": frozenset({"acct"}),
    "CAP_SYS_PTRACE": frozenset({"kcmp", "pidfd_getfd", "process_madvise"}),
    "CAP_SYS_RAWIO": frozenset({"ioperm", "iopl"}),
    "CAP_SYS_TIME": frozenset({"clock_settime", "settimeofday"}),
    "CAP_SYS_TTY_CONFIG": frozenset({"vhangup"}),
}

_NEVER = """
    add_key kexec_file_load kexec_load keyctl request_key swapoff swapon userfaultfd vmsplice
"""

REFUSED = _names(_NEVER).union(*CAPABILITY_ALLOWED.values())

# AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET (linux/socket.h). The exotic ones (vsock, algorithms,
# tipc, can, rds, ...) pass by network namespaces or load kernel modules, and servers don't use them.
SOCKET_FAMILIES = (1, 2, 10, 16, 17)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h).
# CLONE_NEWTIME is no flag of clone: its bit belongs to the exit signal there.
NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
