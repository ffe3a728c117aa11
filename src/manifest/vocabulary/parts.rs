//! The fields of what a component consists of.

use super::OnEdit::{AppliesLive, Depends, Nothing, Restarts};
use super::kubernetes::KUBERNETES_OF_SECRET;
use super::{Field, Kind, REQUIRED, Section};

/// When something is started again.
pub(super) const POLICIES: &[&str] = &["always", "on-failure", "never"];
/// The words of other tools for it.
pub(super) const OLD_POLICIES: &[&str] = &["unless-stopped", "no", "false"];
/// The words of compose files for what is waited for.
const COMPOSE_CONDITIONS: &[&str] = &[
    "service_started",
    "service_healthy",
    "healthy",
    "service_completed_successfully",
];

/// A restart policy.
pub(super) static RESTART: Section = Section {
    what: "a restart policy",
    text: "When a component is started again, and how soon.",
    fields: &[
        Field::new(
            "policy",
            Kind::Choice(POLICIES, OLD_POLICIES),
            "`always`",
            AppliesLive,
            "`always`, `on-failure`, `never`",
            "policy: on-failure",
        ),
        Field::new(
            "backoff",
            Kind::Choice(&["exponential", "linear", "fixed"], &[]),
            "`exponential`",
            AppliesLive,
            "how the delay grows: `exponential`, `linear`, `fixed`",
            "backoff: linear",
        ),
        Field::new(
            "initial_delay",
            Kind::Duration,
            "`1s`",
            AppliesLive,
            "the delay after the first failure",
            "initial_delay: 2s",
        ),
        Field::new(
            "max_delay",
            Kind::Duration,
            "`60s`",
            AppliesLive,
            "the longest delay",
            "max_delay: 5m",
        ),
        Field::new(
            "factor",
            Kind::Number(1, 100),
            "`2`",
            AppliesLive,
            "growth per failure of the exponential form",
            "factor: 3",
        ),
        Field::new(
            "jitter",
            Kind::Number(0, 1),
            "`0.25`",
            AppliesLive,
            "largest fraction of the delay that is added to it",
            "jitter: 0.5",
        ),
        Field::new(
            "max_retries",
            Kind::Whole(0, 1_000_000),
            "without end",
            AppliesLive,
            "give up after so many",
            "max_retries: 10",
        ),
        Field::new(
            "window",
            Kind::Duration,
            "all",
            AppliesLive,
            "with `max_retries`: only failures within it count",
            "window: 1h",
        ),
        Field::new(
            "reset_after",
            Kind::Duration,
            "`2m`",
            AppliesLive,
            "running and ready for this long forgets earlier failures",
            "reset_after: 10m",
        ),
        Field::new(
            "success_codes",
            Kind::WholeNumbers(0, 255),
            "`[0]`",
            AppliesLive,
            "exit codes that are no failure",
            "success_codes: [0, 143]",
        ),
    ],
};

pub(super) static STOP: Section = Section {
    what: "`stop`",
    text: "How a component is asked to end, and when it is killed.",
    fields: &[
        Field::new(
            "signal",
            Kind::Word,
            "the image's, else `SIGTERM`",
            AppliesLive,
            "any name or number of `kill -l`",
            "signal: SIGINT",
        ),
        Field::new(
            "to",
            Kind::Choice(&["all", "group", "main"], &[]),
            "`all`",
            AppliesLive,
            "`all` processes of the tree, the program's `group`, or the `main` program alone",
            "to: main",
        ),
        Field::new(
            "grace_period",
            Kind::Duration,
            "`10s`",
            AppliesLive,
            "how long it may take before the whole tree is killed",
            "grace_period: 30s",
        ),
    ],
};

pub(super) static DEPENDENCY: Section = Section {
    what: "a dependency",
    text: "What a component waits for before it starts.",
    fields: &[
        Field::new(
            "id",
            Kind::Label,
            REQUIRED,
            AppliesLive,
            "which component",
            "id: migrate",
        ),
        Field::new(
            "condition",
            Kind::Choice(&["started", "ready", "completed"], COMPOSE_CONDITIONS),
            "`ready`",
            AppliesLive,
            "until it has `started`, is `ready`, or is `completed`",
            "condition: completed",
        ),
    ],
};

pub(super) static PORT: Section = Section {
    what: "a port",
    text: "A port that a component listens on.",
    fields: &[
        Field::new(
            "containerPort",
            Kind::Port,
            REQUIRED,
            Restarts,
            "what the program listens on",
            "containerPort: 8080",
        )
        .also(&["container_port", "container", "port"]),
        Field::new(
            "hostPort",
            Kind::Port,
            "not published",
            Restarts,
            "where a container's is reached from the host",
            "hostPort: 18080",
        )
        .also(&["host_port", "host"]),
        Field::new(
            "hostIP",
            Kind::Word,
            "`127.0.0.1`",
            Restarts,
            "on which address of the host",
            "hostIP: 0.0.0.0",
        )
        .also(&["host_ip", "hostIp"]),
        Field::new(
            "name",
            Kind::Word,
            "",
            Restarts,
            "for `components.ID.ports.NAME` and for probes",
            "name: web",
        ),
        Field::new(
            "protocol",
            Kind::Word,
            "`TCP`",
            Restarts,
            "`TCP`, `UDP` or `SCTP`",
            "protocol: UDP",
        ),
    ],
};

pub(super) static SECRET: Section = Section {
    what: "a secret",
    text: "A value that a component reads from `$FLOWCTL_SECRETS_DIR/NAME`.",
    fields: &[
        Field::new(
            "name",
            Kind::Word,
            REQUIRED,
            Restarts,
            "the file's name: letters, digits, `.`, `_` and `-`",
            "name: key",
        ),
        Field::new(
            "file",
            Kind::Word,
            "",
            Restarts,
            "the host's file that holds it",
            "file: key.pem",
        )
        .also(&["host_path", "hostPath"]),
        Field::new(
            "env",
            Kind::Word,
            "",
            Restarts,
            "the daemon's variable that holds it",
            "env: API_KEY",
        ),
        Field::new(
            "kubernetes",
            Kind::Section(&KUBERNETES_OF_SECRET),
            "",
            Restarts,
            "the cluster's Secret that holds it, of a component that Kubernetes runs",
            "kubernetes: {secret: database, key: password}",
        ),
        Field::new(
            "container_path",
            Kind::Word,
            "",
            Restarts,
            "where a container finds it, too",
            "container_path: /run/secrets/key",
        ),
        Field::new(
            "mode",
            Kind::Octal,
            "`0400`",
            Restarts,
            "permission bits of the file, in octal",
            "mode: \"0440\"",
        ),
        Field::new(
            "type",
            Kind::Choice(&["file", "env"], &[]),
            "",
            Nothing,
            "what the other fields say anyway",
            "type: file",
        ),
        Field::new(
            "required",
            Kind::Unused,
            "",
            Nothing,
            "has no effect: a secret that cannot be read keeps the component from starting",
            "required: true",
        ),
        Field::new(
            "labels",
            Kind::Unused,
            "",
            Nothing,
            "has no effect",
            "labels: {}",
        ),
    ],
};

pub(super) static VOLUME: Section = Section {
    what: "a volume",
    text: "What of the host, or of the engine, a container sees as a folder.",
    fields: &[
        Field::new(
            "host_path",
            Kind::Word,
            "",
            Restarts,
            "a file or folder of the host, relative to the manifest's folder",
            "host_path: ./data",
        )
        .also(&["hostPath", "host"]),
        Field::new(
            "name",
            Kind::Word,
            "",
            Restarts,
            "a volume that the engine keeps",
            "name: data",
        ),
        Field::new(
            "tmpfs",
            Kind::Truth,
            "`false`",
            Restarts,
            "a folder in memory, empty at each start",
            "tmpfs: true",
        ),
        Field::new(
            "container_path",
            Kind::Word,
            REQUIRED,
            Restarts,
            "where the container sees it",
            "container_path: /var/lib/data",
        )
        .also(&["mountPath", "mount_path", "container"]),
        Field::new(
            "readonly",
            Kind::Truth,
            "`false`",
            Restarts,
            "whether the container may only read it",
            "readonly: true",
        )
        .also(&["read_only", "readOnly"]),
    ],
};

pub(super) static RESOURCES: Section = Section {
    what: "`resources`",
    text: "What a component may use at most, and what it asks for.",
    fields: &[
        Field::new(
            "limits",
            Kind::Section(&LIMITS),
            "none",
            Depends,
            "what each copy may use at most",
            "limits: {cpu: 500m, memory: 64Mi, pids: 100}",
        ),
        Field::new(
            "requests",
            Kind::Section(&REQUESTS),
            "none",
            Depends,
            "what a scheduler keeps free for each copy; on one host it decides nothing",
            "requests: {cpu: 100m, memory: 32Mi}",
        ),
        Field::new(
            "cpu",
            Kind::Whole(1, 10_000_000),
            "",
            Restarts,
            "Nomad's form, in MHz; for components that Nomad runs",
            "cpu: 500",
        ),
        Field::new(
            "memory",
            Kind::Whole(1, 1 << 30),
            "",
            Restarts,
            "Nomad's form, in MB; for components that Nomad runs",
            "memory: 256",
        ),
    ],
};

pub(super) static LIMITS: Section = Section {
    what: "an amount of resources",
    text: "What each copy may use at most.",
    fields: &[
        Field::new(
            "cpu",
            Kind::Amount,
            "",
            Restarts,
            "cores, like `0.5`, or thousandths, like `500m`",
            "cpu: 500m",
        ),
        Field::new(
            "memory",
            Kind::Amount,
            "",
            Restarts,
            "bytes, like `64Mi` or `2G`; one that needs more is ended",
            "memory: 64Mi",
        ),
        Field::new(
            "pids",
            Kind::Whole(1, 4_194_304),
            "",
            Restarts,
            "processes and threads",
            "pids: 100",
        ),
    ],
};

pub(super) static REQUESTS: Section = Section {
    what: "an amount of resources",
    text: "What a scheduler keeps free for each copy.",
    fields: &[
        Field::new(
            "cpu",
            Kind::Amount,
            "",
            Restarts,
            "cores, like `0.5`, or thousandths, like `500m`",
            "cpu: 100m",
        ),
        Field::new(
            "memory",
            Kind::Amount,
            "",
            Restarts,
            "bytes, like `64Mi` or `2G`",
            "memory: 32Mi",
        ),
    ],
};

pub(super) static RLIMITS: Section = Section {
    what: "`rlimits`",
    text: "What the kernel lets a process have.",
    fields: &[
        Field::new(
            "nofile",
            Kind::Whole(3, 1 << 30),
            "1024, and the daemon's",
            Restarts,
            "open files, soft and hard",
            "nofile: 65536",
        ),
        Field::new(
            "core",
            Kind::Amount,
            "`0`, and the daemon's",
            Restarts,
            "bytes of a core dump",
            "core: 100Mi",
        ),
    ],
};

pub(super) static LOGS: Section = Section {
    what: "`logs`",
    text: "How much of each replica's output is kept.",
    fields: &[
        Field::new(
            "max_size",
            Kind::Amount,
            "`10Mi`",
            AppliesLive,
            "how long a file gets before the next one is begun",
            "max_size: 50Mi",
        ),
        Field::new(
            "max_files",
            Kind::Whole(1, 1_000),
            "`5`",
            AppliesLive,
            "how many files are kept",
            "max_files: 10",
        ),
    ],
};
