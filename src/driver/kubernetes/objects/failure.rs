//! What keeps a component from becoming objects of a cluster.

use crate::model::StartFailure;

/// The largest object that a cluster stores with room to spare: etcd takes 1.5 MiB, and the cluster adds
/// to what it was sent.
const LARGEST: usize = 1 << 20;
/// The largest annotations of one object, all together.
const LARGEST_ANNOTATIONS: usize = 256 << 10;

fn failure(reason: &str, message: String) -> StartFailure {
    StartFailure {
        reason: reason.to_owned(),
        message,
    }
}

/// A user whose number only the image knows.
pub(super) fn named_user(user: &str) -> StartFailure {
    let message = format!(
        "`user: {user}` is a name, and a pod runs as a number: write `user: \"UID\"` or `\"UID:GID\"`"
    );
    failure("UserIsAName", message)
}

/// A component that another driver runs.
pub(super) fn other_driver(component: &str) -> StartFailure {
    let message = format!("{component} is not a component that Kubernetes runs");
    failure("WrongDriver", message)
}

/// A definition that could not be written.
pub(super) fn unwritable(error: &serde_json::Error) -> StartFailure {
    failure(
        "SpecUnwritable",
        format!("its definition cannot be written: {error}"),
    )
}

/// Objects that a cluster does not store.
pub(super) fn weigh(what: &str, body: &serde_json::Value) -> Result<(), StartFailure> {
    let size = body.to_string().len();
    if size > LARGEST {
        let message = format!(
            "its {what} is {size} bytes long, and a cluster stores no more than {LARGEST}: move long \
             values of `env` to files"
        );
        return Err(failure("ObjectTooLarge", message));
    }
    let annotations = body["metadata"]["annotations"].to_string().len();
    if annotations > LARGEST_ANNOTATIONS {
        let message = format!(
            "its definition is {annotations} bytes long, and a cluster keeps no more than \
             {LARGEST_ANNOTATIONS} with its {what}: move long values of `env` to an `env_file`"
        );
        return Err(failure("ObjectTooLarge", message));
    }
    Ok(())
}
