//! The fields of `spec.kubernetes`, and of `kubernetes` in a component and in a secret.

use super::OnEdit::Restarts;
use super::{Field, Kind, REQUIRED, Section};

const SERVICE_ACCOUNT: Field = Field::new(
    "service_account",
    Kind::Word,
    "the namespace's, without its token",
    Restarts,
    "the ServiceAccount that pods run as; its token is mounted then",
    "service_account: ledgers",
);
const IMAGE_PULL_SECRETS: Field = Field::new(
    "image_pull_secrets",
    Kind::TextsOrOne,
    "the ServiceAccount's",
    Restarts,
    "Secrets of the cluster that images are pulled with",
    "image_pull_secrets: [registry]",
);
const SECURITY: Field = Field::new(
    "security",
    Kind::Choice(&["same-as-docker", "restricted", "image"], &[]),
    "`same-as-docker`",
    Restarts,
    "what programs may do: what they may on Docker, so that the same image starts; what a namespace that enforces `restricted` lets in; or whatever the image and the cluster say",
    "security: restricted",
);
const STORAGE_FIELD: Field = Field::new(
    "storage",
    Kind::Section(&STORAGE),
    "",
    Restarts,
    "how named volumes are made: each is a PersistentVolumeClaim, which stays when the pipeline goes",
    "storage: {size: 10Gi}",
);
const NODE_SELECTOR: Field = Field::new(
    "node_selector",
    Kind::Map,
    "any node",
    Restarts,
    "labels that a node must have",
    "node_selector: {disktype: ssd}",
);
const TOLERATIONS: Field = Field::new(
    "tolerations",
    Kind::Sections(&TOLERATION),
    "`[]`",
    Restarts,
    "taints of nodes that pods put up with",
    "tolerations: [{key: dedicated, value: data}]",
);
const PRIORITY_CLASS: Field = Field::new(
    "priority_class",
    Kind::Word,
    "the cluster's",
    Restarts,
    "the PriorityClass of pods",
    "priority_class: high",
);
const RUNTIME_CLASS: Field = Field::new(
    "runtime_class",
    Kind::Word,
    "the cluster's",
    Restarts,
    "the RuntimeClass of pods",
    "runtime_class: gvisor",
);
const LABELS: Field = Field::new(
    "labels",
    Kind::Map,
    "`{}`",
    Restarts,
    "further labels of pods and Jobs",
    "labels: {team: data}",
);
const ANNOTATIONS: Field = Field::new(
    "annotations",
    Kind::Map,
    "`{}`",
    Restarts,
    "further annotations of pods",
    "annotations: {example.com/scrape: \"true\"}",
);
const ALLOW_HOST_PORTS: Field = Field::new(
    "allow_host_ports",
    Kind::Truth,
    "`false`",
    Restarts,
    "whether `hostPort`s are opened on the node",
    "allow_host_ports: true",
);
const ALLOW_HOST_PATH: Field = Field::new(
    "allow_host_path",
    Kind::Truth,
    "`false`",
    Restarts,
    "whether a volume's `host_path` is a folder of the node; else it is refused",
    "allow_host_path: true",
);

/// `spec.kubernetes`.
pub(super) static KUBERNETES: Section = Section {
    what: "`kubernetes`",
    text: "Where components go that Kubernetes runs, and how they are kept there.",
    fields: &[
        Field::new(
            "namespace",
            Kind::Label,
            "the daemon's",
            Restarts,
            "which namespace of the cluster's",
            "namespace: data",
        ),
        SERVICE_ACCOUNT,
        IMAGE_PULL_SECRETS,
        SECURITY,
        STORAGE_FIELD,
        NODE_SELECTOR,
        TOLERATIONS,
        PRIORITY_CLASS,
        RUNTIME_CLASS,
        LABELS,
        ANNOTATIONS,
        ALLOW_HOST_PORTS,
        ALLOW_HOST_PATH,
    ],
};

/// `kubernetes` of a component.
pub(super) static KUBERNETES_OF_COMPONENT: Section = Section {
    what: "`kubernetes` of a component",
    text: "What its pods have otherwise than `spec.kubernetes` says. Other drivers take no notice of it.",
    fields: &[
        SERVICE_ACCOUNT,
        IMAGE_PULL_SECRETS,
        SECURITY,
        STORAGE_FIELD,
        NODE_SELECTOR,
        TOLERATIONS,
        PRIORITY_CLASS,
        RUNTIME_CLASS,
        LABELS,
        ANNOTATIONS,
        ALLOW_HOST_PORTS,
        ALLOW_HOST_PATH,
    ],
};

/// `kubernetes` of a secret.
pub(super) static KUBERNETES_OF_SECRET: Section = Section {
    what: "`kubernetes` of a secret",
    text: "Which Secret of the cluster holds the value. flowctl never sees it.",
    fields: &[
        Field::new(
            "secret",
            Kind::Word,
            REQUIRED,
            Restarts,
            "the Secret, in the pods' namespace",
            "secret: database",
        ),
        Field::new(
            "key",
            Kind::Word,
            REQUIRED,
            Restarts,
            "the key of the value in it",
            "key: password",
        ),
    ],
};

static STORAGE: Section = Section {
    what: "`storage`",
    text: "How named volumes are made.",
    fields: &[
        Field::new(
            "size",
            Kind::Amount,
            REQUIRED,
            Restarts,
            "how large each is",
            "size: 10Gi",
        ),
        Field::new(
            "class",
            Kind::Word,
            "the cluster's",
            Restarts,
            "the StorageClass",
            "class: fast",
        ),
        Field::new(
            "access",
            Kind::Choice(&["one-node", "many-nodes"], &[]),
            "`one-node`",
            Restarts,
            "on how many nodes a volume may be at one time",
            "access: many-nodes",
        ),
    ],
};

static TOLERATION: Section = Section {
    what: "a toleration",
    text: "A taint of nodes that pods put up with.",
    fields: &[
        Field::new(
            "key",
            Kind::Word,
            "every taint",
            Restarts,
            "the taint's key",
            "key: dedicated",
        ),
        Field::new(
            "value",
            Kind::Text,
            "whatever it is",
            Restarts,
            "the taint's value",
            "value: data",
        ),
        Field::new(
            "effect",
            Kind::Choice(&["NoSchedule", "PreferNoSchedule", "NoExecute"], &[]),
            "every effect",
            Restarts,
            "what the taint does to others",
            "effect: NoExecute",
        ),
        Field::new(
            "seconds",
            Kind::Whole(0, 2_147_483_647),
            "for good",
            Restarts,
            "with NoExecute: for how long a running pod stays",
            "seconds: 300",
        ),
    ],
};
