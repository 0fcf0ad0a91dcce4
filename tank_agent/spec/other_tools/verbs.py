"""Words of other tools that users type after `tank`, each with the sentence that names ours.

In a sentence, NAME stands for the names that were typed. Nothing is imported here, since the parser of the
command line looks it up.
"""

from __future__ import annotations

_APPLY = "`tank apply FILE` runs the pods of a pod file, and files in /etc/tank/pods.d run by themselves"
_BUILD = (
    "images come from a registry or a file: build them with podman or buildah, push "
    "them, and name them in a pod file"
)
_DETAILS = (
    "`tank status NAME` shows all that is known of a pod, and `tank get NAME` its spec; both take -o json"
)
_EXEC = "`tank exec NAME sh` is a shell in a container of a pod"
_FILE = (
    "a pod's file is edited where it is, and counts at once; `tank status NAME` names it "
    "as owner, and `tank plan` shows what changes"
)
_FOLLOWED = "files and git are followed at once, without a command; `tank sync` looks at them now"
_IMPORT = "`tank import compose FILE` makes pod files of a compose file"
_LOGIN = (
    "credentials of registries are in /etc/tank/auth.json, which `podman login "
    "--authfile /etc/tank/auth.json` writes"
)
_LOGS = "`tank logs NAME` shows what a pod printed, and -f goes on"
_NETWORKS = 'networks are part of a pod file: bridges = ["front"] under [network], or network = "bridge"'
_PAUSE = "`tank stop NAME` ends a pod's processes, and `tank start NAME` begins them anew"
_PLAN = "`tank plan FILE` shows what a file would change, and `tank plan` what is still to be done"
_PORTS = '`tank status` shows the ports of a pod; a pod file publishes them by ports = ["8080:80"]'
_QUADLET = "`tank import quadlet PATH` makes pod files of Quadlet files"
_REMOVE = (
    "`tank delete NAME` removes a pod of `tank apply`, and one of a file goes with its file; "
    "`tank stop NAME` only stops it"
)
_RESTART = "`tank restart NAME` starts a pod's containers afresh"
_SCALE = "a pod runs once on a machine; write a second pod file for a second one"
_STATUS = "`tank status` shows the pods"
_STOPPED = "`tank stop NAME` stops a pod, also over reboots, and `tank start NAME` starts it again"
_STATES = "`tank status NAME` says whether it runs, and `tank wait NAME` ends with 0 once it does"
_SUSPEND = "`tank suspend NAME` leaves a pod as it is, whatever its file says, until `tank resume NAME`"
_TOP = "`tank top` shows what containers use"
_VALIDATE = "`tank validate PATH` checks pod files"
_VOLUMES = "`tank volume ls` shows the volumes; a pod file makes one by [[volumes]]"

# A verb, or a verb of a verb, and the sentence for it.
VERBS: dict[str, str] = {
    # docker, podman and compose
    **dict.fromkeys(("ls", "pods", "pod", "ps", "services"), _STATUS),
    **dict.fromkeys(("create", "deploy", "up"), _APPLY),
    **dict.fromkeys(("destroy", "down", "kill", "remove", "rm", "terminate", "uninstall"), _REMOVE),
    **dict.fromkeys(("build", "buildx", "commit", "push", "tag"), _BUILD),
    **dict.fromkeys(("image build", "image push", "image tag"), _BUILD),
    **dict.fromkeys(("login", "logout"), _LOGIN),
    **dict.fromkeys(("config", "describe", "dump", "inspect", "show"), _DETAILS),
    **dict.fromkeys(("pause", "unpause"), _PAUSE),
    **dict.fromkeys(("port", "ports", "expose", "port-forward"), _PORTS),
    **dict.fromkeys(("monitor", "stats", "usage"), _TOP),
    **dict.fromkeys(("network", "networks"), _NETWORKS),
    **dict.fromkeys(
        ("info", "system info"), "`tank version` and `tank doctor` tell of the agent and the machine"
    ),
    "compose": _IMPORT,
    "compose config": _VALIDATE,
    "auto-update": (
        '`tank image update NAME` takes a newer image, and image = "digest" under [update] does by itself'
    ),
    "healthcheck": (
        "`tank status NAME` shows the health of a pod, and `tank why NAME` the text of the last failure"
    ),
    "image history": "`tank image ls` shows the images",
    "image inspect": "`tank image ls -o json` has all that is known of images",
    "image list": "`tank image ls` shows the images",
    "image load": 'a pod file takes an archive itself: image = "oci-archive:/path/file.tar"',
    "image remove": "`tank image rm IMAGE` removes an image",
    "images": "`tank image ls` shows the images",
    "load": 'a pod file takes an archive itself: image = "oci-archive:/path/file.tar"',
    "machine": "tank runs on Linux itself, and needs no machine",
    "prune": "`tank image prune` removes the images that no pod needs",
    "pull": "`tank image pull IMAGE` fetches an image",
    "rename": "a pod is named in its file; under another name it is another pod, with volumes of its own",
    "rmi": "`tank image rm IMAGE` removes an image",
    "search": "`tank image pull IMAGE` fetches an image by its name; `podman search` finds names",
    "set": _FILE,
    "system df": "`tank image ls` and `tank volume ls` show sizes",
    "system prune": "`tank image prune` removes the images that no pod needs",
    "unshare": _EXEC,
    "update": f"{_FILE}; `tank image update NAME` takes a newer image",
    "volume create": _VOLUMES,
    "volume inspect": "`tank volume ls -o json` has all that is known of volumes",
    "volume list": "`tank volume ls` shows the volumes",
    "volume prune": (
        "volumes are removed by name: `tank volume rm POD/NAME`; `tank volume ls` shows which are in use"
    ),
    "volume remove": "`tank volume rm POD/NAME` removes a volume",
    "volumes": "`tank volume ls` shows the volumes",
    # podman's Kubernetes and systemd
    **dict.fromkeys(
        ("generate", "kube generate"), "`tank export kubernetes NAME` writes a pod for Kubernetes"
    ),
    "generate systemd": "tank needs no unit a pod; `tank export quadlet NAME` writes Quadlet files",
    "generate kube": "`tank export kubernetes NAME` writes a pod for Kubernetes",
    **dict.fromkeys(("kube", "kube play", "play", "play kube"), _APPLY),
    "quadlet": _QUADLET,
    # kubectl
    **dict.fromkeys(("autoscale", "scale"), _SCALE),
    **dict.fromkeys(("annotate", "edit", "label", "patch", "replace"), _FILE),
    **dict.fromkeys(("cordon", "drain", "uncordon"), _SUSPEND),
    **dict.fromkeys(
        ("api-resources", "explain"),
        "`man tank-pod` explains the keys of pod files, and `tank schema` prints their schema",
    ),
    "cluster-info": "`tank version` and `tank doctor` tell of the agent and the machine",
    "debug": f"`tank why NAME` says why a pod is as it is; {_EXEC}",
    "diff": _PLAN,
    "rollout": (
        f"{_RESTART}; `tank rollback NAME` gives it its last good spec, and `tank history "
        f"NAME` shows the specs"
    ),
    "rollout history": "`tank history NAME` shows the kept specs of a pod",
    "rollout restart": _RESTART,
    "rollout status": (
        "`tank status NAME` shows the update of a pod, and `tank wait NAME` waits until it runs"
    ),
    "rollout undo": "`tank rollback NAME` gives a pod its last good spec",
    # systemctl and journalctl
    **dict.fromkeys(("enable", "disable", "mask", "unmask"), _STOPPED),
    **dict.fromkeys(("is-active", "is-enabled", "is-failed"), _STATES),
    **dict.fromkeys(("daemon-reload", "fetch", "reconcile", "refresh"), _FOLLOWED),
    **dict.fromkeys(("list-units", "list-unit-files"), _STATUS),
    **dict.fromkeys(("cat", "spec"), "`tank get NAME` prints the spec of a pod, as TOML"),
    **dict.fromkeys(("journal", "journalctl", "log", "tail"), _LOGS),
    "reload": f"`systemctl reload tank-agent` reads agent.toml again; {_RESTART}",
    "reset-failed": f"{_RESTART}; `tank resume NAME` tries a failed update again",
    "try-restart": _RESTART,
    # nomad, git and shells
    **dict.fromkeys(("bash", "console", "enter", "sh", "shell", "ssh"), _EXEC),
    **dict.fromkeys(("job", "jobs"), "`tank status` shows jobs as well, and `tank run NAME` runs one now"),
    **dict.fromkeys(("check", "lint", "test", "verify"), _VALIDATE),
    **dict.fromkeys(("dry-run", "preview"), _PLAN),
    **dict.fromkeys(("revert", "undo"), "`tank rollback NAME` gives a pod its last good spec"),
    **dict.fromkeys(("pin", "freeze", "hold"), _SUSPEND),
    **dict.fromkeys(("unpin", "unfreeze", "unhold"), "`tank resume NAME` lets a pod follow its file again"),
    **dict.fromkeys(("backup", "snapshot"), "`tank volume snapshot POD/NAME` copies a volume"),
    **dict.fromkeys(
        ("encrypt", "decrypt"), "`tank secret encrypt FILE` encrypts a secret; nothing prints one"
    ),
    "init": (
        "`tank git init PATH` makes a repository to push to; a pod file is written by hand, "
        "see `man tank-pod`"
    ),
    "install": _APPLY,
    "restore": "`tank volume restore POD/NAME SNAPSHOT` puts a copy of a volume back",
    "watch": "`tank status -w` shows the pods, live",
    "reboot": _RESTART,
}

# Words in front of others that tank has no need for: `tank container ls` is answered as `tank ls`.
PREFIXES = (
    "compose",
    "container",
    "containers",
    "docker",
    "docker-compose",
    "kubectl",
    "pod",
    "podman",
    "systemctl",
    "tank",
)

_NAMESPACES = "there are no namespaces: all pods of this machine are shown"
_RUN = "`tank run NAME` runs a job now; a container is started from a pod file, by `tank apply FILE`"
_USER = "a command runs as the container's user; `su` in the container, where it has that, makes it another"
# Options of other tools, behind our verb ("" for all verbs), and the sentence for them.
OPTIONS: dict[str, dict[str, str]] = {
    "": {
        **dict.fromkeys(("--namespace", "-A", "--all-namespaces"), _NAMESPACES),
        **dict.fromkeys(("--format", "--json", "--yaml"), "-o json prints JSON, and jq takes it apart"),
        **dict.fromkeys(("-H", "--connection", "--context"), "`--socket S` names the agent's socket"),
        **dict.fromkeys(("--verbose", "-v"), "--debug shows where in the program an error arose"),
        **dict.fromkeys(("-q", "--quiet"), "-o json prints JSON, from which jq takes the names"),
    },
    "apply": {
        **dict.fromkeys(("-k", "-R", "--recursive"),
            "`tank apply` takes one file; files of a directory run from pods_dir"
        ),
        "--dry-run": "`tank plan FILE` shows what a file would change",
        "--force": "`tank apply` replaces a pod of the same name anyway",
        "--prune": (
            "`tank delete NAME` removes a pod; files of pods_dir are a mirror, and take pods "
            "away when they go"
        ),
    },
    "delete": {
        **dict.fromkeys(("-f", "--filename", "--force"), "pods are removed by name: `tank delete NAME`"),
        **dict.fromkeys(("-a", "--all"), "pods are removed by name; `tank list` shows them"),
        **dict.fromkeys(("-v", "--volumes"), "volumes stay, and are removed by `tank volume rm POD/NAME`"),
        **dict.fromkeys(("-t", "--time", "--grace-period"),
            "a container has the time that stop_grace of its pod file says"
        ),
    },
    "exec": {
        **dict.fromkeys(("-d", "--detach"),
            "Ctrl-P Ctrl-Q leaves a command running; nohup in a shell does without a terminal"
        ),
        **dict.fromkeys(("-u", "--user"), _USER),
        "--privileged": "a command has the capabilities of its container, which are in its pod file",
        "--env-file": "variables are given by --env K=V",
    },
    "get": {
        **dict.fromkeys(("-w", "--watch"), "`tank status -w` shows the pods, live"),
    },
    "logs": {
        **dict.fromkeys(("-p", "--previous"),
            "`tank logs` shows all runs of a container, the former ones as well"
        ),
        **dict.fromkeys(("-e", "--pager-end"), "-n 100 shows the last 100 lines of each container"),
        **dict.fromkeys(("-u", "--unit"), "a pod is named without an option: `tank logs NAME`"),
        "--until": "--since is there, and head or less end it",
        "--details": "-o json tells container, stream and time of each line",
    },
    "run": dict.fromkeys(
        ("-it", "-i", "-t", "--rm", "-p", "--publish", "-v", "--volume", "-e", "--env", "--name", "--network",
         "--image", "--restart", "-u", "--user", "-w", "--entrypoint", "--privileged", "--pod", "--net"), _RUN
    ),
    "status": {
        **dict.fromkeys(("-l", "--show-labels"), "-o json has all that is known of pods"),
    },
    "sync": {
        **dict.fromkeys(("-f", "--force"),
            "`tank sync --confirm` lets a commit through that waits for a nod"
        ),
    },
    "top": {
        **dict.fromkeys(("-a", "--all"), "containers that don't run use nothing"),
        **dict.fromkeys(("-b", "--batch"), "in a pipe, one table follows the other; -1 prints one"),
        **dict.fromkeys(("-d", "-n", "--delay"), "--interval T is the time between two looks"),
        "--sort-by": "--sort COLUMN decides the order",
    },
    "wait": {
        "--all": "`tank sync --wait` waits for all pods",
    },
}  # fmt: skip

_LISTS = "it takes no names; `tank status NAME` shows a pod"
# Our verbs that take fewer words than others' verbs of that name, and the sentence for what is too much.
TOO_MANY: dict[str, str] = {
    "apply": "it takes one file; files of a directory run from pods_dir",
    "events": "events of one pod are shown by --pod NAME",
    "get": "it prints the spec of one pod: `tank get NAME`; `tank status` shows the pods",
    "list": _LISTS,
    "run": _RUN,
    "version": "it takes no words",
}

# What kubectl calls its lists, where ours takes a pod's name.
KINDS = (
    "all", "cm", "configmap", "configmaps", "deploy", "deployment", "deployments", "events", "job", "jobs",
    "no", "node", "nodes", "ns", "po", "pod", "pods", "secret", "secrets", "service", "services", "svc",
)  # fmt: skip
