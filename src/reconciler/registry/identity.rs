//! Who calls, as far as that is proven, and what it may speak for. Pure.
//!
//! A caller that shows no token may change only what has no owner, or what the kernel or the
//! container engine says is its own. Clients of the field show none: they are known as the instances
//! that they are by the process or the container behind their connection. What a caller says of
//! itself proves nothing, unless it is the daemon's own user, who may use the socket of the state
//! directory as well.

use std::fmt;

use crate::model::{Evidence, InstanceId, RegistrationRecord, ServiceId, Teller};

use super::RegistryRefusal;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Identity {
    /// An instance: it showed its token, or the kernel or the engine says so. It may have ended.
    Instance {
        /// Which one.
        id: InstanceId,
        /// How that is known.
        by: Evidence,
    },
    /// A component that runs elsewhere, by the token that was made for its name.
    Outsider(ServiceId),
    /// A process of the daemon's own user, or of root, outside of containers.
    Operator,
    /// The daemon's own user, by a process that cannot be looked into.
    OwnUser,
    /// Another user of this machine, by uid.
    User(u32),
    /// Somebody of whom nothing is known.
    #[default]
    Stranger,
}

impl Identity {
    /// Whether it could do all that it asks for by the socket of the state directory, too.
    pub fn is_operator(&self) -> bool {
        match self {
            Self::Operator | Self::OwnUser => true,
            Self::Instance { .. } | Self::Outsider(_) | Self::User(_) | Self::Stranger => false,
        }
    }

    /// Whether what it says of itself counts for nothing.
    pub fn is_unproven(&self) -> bool {
        match self {
            Self::User(_) | Self::Stranger => true,
            Self::Instance { .. } | Self::Outsider(_) | Self::Operator | Self::OwnUser => false,
        }
    }

    /// The instance that it is.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Instance { id, .. } => Some(id),
            Self::Outsider(_) | Self::Operator | Self::OwnUser | Self::User(_) | Self::Stranger => {
                None
            }
        }
    }

    /// Whether it may beat for a registration, or take it back.
    ///
    /// # Errors
    /// When that belongs to somebody else, or to a later instance.
    pub fn check_speaks_for(&self, record: &RegistrationRecord) -> Result<(), RegistryRefusal> {
        let id = record.service_id.as_str();
        match (self, &record.owner) {
            (Self::Outsider(name), _)
                if id == name.as_str() || record.component() == name.as_str() =>
            {
                Ok(())
            }
            (Self::Outsider(_), _) => Err(self.foreign(id)),
            (_, None) | (Self::Operator | Self::OwnUser, _) => Ok(()),
            (Self::Instance { id: own, .. }, Some(owner)) => {
                let owner = &owner.instance;
                if owner.pipeline != own.pipeline || owner.replica != own.replica {
                    return Err(self.foreign(id));
                }
                if owner.incarnation > own.incarnation {
                    return Err(RegistryRefusal::EndedInstance(own.clone()));
                }
                Ok(())
            }
            (Self::User(_) | Self::Stranger, Some(_)) => Err(self.foreign(id)),
        }
    }

    /// The refusal to speak for `named`.
    pub fn foreign(&self, named: &str) -> RegistryRefusal {
        let named = named
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        if self.is_unproven() {
            let who = self.clone();
            return RegistryRefusal::Unproven { who, named };
        }
        let bearer = self.clone();
        RegistryRefusal::Foreign { bearer, named }
    }

    /// The one to whom what it tells belongs; `None` = nobody that could be known again.
    pub fn teller(&self) -> Option<Teller> {
        match self {
            Self::Instance { id, .. } => Some(Teller::Component {
                pipeline: id.pipeline.clone(),
                component: id.replica.component.clone(),
            }),
            Self::Outsider(name) => Some(Teller::Outsider(name.clone())),
            Self::Operator | Self::OwnUser => Some(Teller::Operator),
            Self::User(uid) => Some(Teller::User(*uid)),
            Self::Stranger => None,
        }
    }

    /// Whether it may change what `teller` told.
    pub fn may_change(&self, teller: Option<&Teller>) -> bool {
        let Some(teller) = teller else { return true };
        self.is_operator() || self.teller().as_ref() == Some(teller)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { id, .. } => id.fmt(f),
            Self::Outsider(name) => name.fmt(f),
            Self::Operator | Self::OwnUser => f.write_str("the daemon's own user"),
            Self::User(uid) => write!(f, "user {uid} of this host"),
            Self::Stranger => f.write_str("this caller"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{About, Owner, Provenance, ServiceHealth, Timestamp};

    fn instance(text: &str) -> Identity {
        Identity::Instance {
            id: text.parse().unwrap(),
            by: Evidence::Process,
        }
    }

    fn record(id: &str, owner: Option<&str>) -> RegistrationRecord {
        let now = Timestamp::default();
        RegistrationRecord {
            service_id: id.parse().unwrap(),
            about: About::default(),
            owner: owner.map(|owner| Owner {
                instance: owner.parse().unwrap(),
                by: Evidence::Name,
            }),
            provenance: Provenance::Registered,
            peer: None,
            first_seen: now,
            registered_at: now,
            last_heartbeat: None,
            said: ServiceHealth::Healthy,
            metrics: Default::default(),
            silent_since: None,
            hearing: Default::default(),
        }
    }

    #[test]
    fn only_the_replica_itself_and_the_operator_speak_for_what_has_an_owner() {
        let owned = record("a", Some("default.p.a.0.3"));
        let nobodys = record("x", None);
        for (who, owns, free) in [
            (instance("default.p.a.0.3"), true, true),
            (instance("default.p.a.0.4"), true, true),
            (instance("default.p.a.0.2"), false, true),
            (instance("default.p.a.1.3"), false, true),
            (instance("default.p.b.0.3"), false, true),
            (instance("default.q.a.0.3"), false, true),
            (Identity::Outsider("a".parse().unwrap()), true, false),
            (Identity::Outsider("b".parse().unwrap()), false, false),
            (Identity::Operator, true, true),
            (Identity::OwnUser, true, true),
            (Identity::User(1000), false, true),
            (Identity::Stranger, false, true),
        ] {
            let told = format!("{who:?}");
            assert_eq!(who.check_speaks_for(&owned).is_ok(), owns, "{told}");
            assert_eq!(who.check_speaks_for(&nobodys).is_ok(), free, "{told}");
        }
    }

    #[test]
    fn what_one_told_no_other_changes() {
        let all = [
            instance("default.p.a.0.3"),
            instance("default.p.b.0.3"),
            Identity::Outsider("a".parse().unwrap()),
            Identity::User(1000),
            Identity::User(1001),
            Identity::Operator,
        ];
        for teller in &all {
            for other in &all {
                let may = other == teller || other.is_operator();
                let told = teller.teller();
                assert_eq!(
                    other.may_change(told.as_ref()),
                    may,
                    "{other:?} of {teller:?}"
                );
            }
            assert!(teller.may_change(None), "what nobody is known to have told");
        }
        let next = instance("default.p.a.0.4");
        let before = all[0].teller();
        assert!(
            next.may_change(before.as_ref()),
            "a restart goes on with its run"
        );
        assert!(!Identity::Stranger.may_change(before.as_ref()));
    }
}
