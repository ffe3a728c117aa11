//! How an instance of this driver is addressed.

use serde::{Deserialize, Serialize};

use crate::model::{Facts, Handle, ProcessIdentity};

/// A process and its shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    /// The guardian.
    pub(super) shim: ProcessIdentity,
    /// The program itself; also the leader of its process group.
    pub(super) child: ProcessIdentity,
}

/// As it is kept.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Kept<'a> {
    Process(&'a Address),
}

impl Address {
    /// For the records.
    pub(super) fn handle(&self) -> Handle {
        Handle::new(&Kept::Process(self))
    }

    /// For those who look.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            processes: vec![self.shim.clone(), self.child.clone()],
            ..Facts::default()
        }
    }

    /// Both.
    pub(super) fn told(&self) -> (Handle, Facts) {
        (self.handle(), self.facts())
    }
}
