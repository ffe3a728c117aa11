//! What the driver has to be allowed in a namespace, and nothing more.

/// A rule of a Role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty = the core one.
    pub group: &'static str,
    /// What.
    pub resources: &'static [&'static str],
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// What it is for.
    pub purpose: &'static str,
}

/// All rules, for each namespace that pipelines use.
pub const RIGHTS: [Right; 6] = [
    Right {
        group: "batch",
        resources: &["jobs"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        purpose: "start and end instances",
    },
    Right {
        group: "",
        resources: &["pods"],
        verbs: &["get", "list", "watch", "delete"],
        purpose: "see how they are, and end them",
    },
    Right {
        group: "",
        resources: &["pods/log"],
        verbs: &["get"],
        purpose: "keep their logs",
    },
    Right {
        group: "",
        resources: &["events"],
        verbs: &["get", "list", "watch"],
        purpose: "tell why one does not start",
    },
    Right {
        group: "",
        resources: &["services", "configmaps", "persistentvolumeclaims"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        purpose: "give components addresses and volumes",
    },
    // Neither listed nor watched: nobody reads the Secrets of others by it.
    Right {
        group: "",
        resources: &["secrets"],
        verbs: &["get", "create", "patch", "delete"],
        purpose: "hand over tokens and secrets",
    },
];
