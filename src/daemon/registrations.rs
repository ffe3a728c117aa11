//! Registrations as settings of the store: one each, as JSON.

use std::collections::BTreeMap;

use crate::model::{RegistrationRecord, ServiceId};
use crate::store::Batch;

const PREFIX: &str = "registration/";

/// The registrations among `settings`. One that cannot be read is left out: its component's next
/// heartbeat brings it back.
pub(super) fn kept(settings: &BTreeMap<String, String>) -> BTreeMap<ServiceId, RegistrationRecord> {
    let rows = settings.range(PREFIX.to_owned()..);
    rows.take_while(|(name, _)| name.starts_with(PREFIX))
        .filter_map(|(name, row)| match serde_json::from_str::<RegistrationRecord>(row) {
            Ok(record) => Some((record.service_id.clone(), record)),
            Err(error) => {
                tracing::warn!(%name, %error, "a registration could not be read and is left out");
                None
            }
        })
        .collect()
}

/// Puts changed registrations into `batch`.
pub(super) fn put(
    batch: &mut Batch,
    registrations: BTreeMap<ServiceId, Option<RegistrationRecord>>,
) {
    for (id, record) in registrations {
        let name = format!("{PREFIX}{id}");
        match record {
            Some(record) => {
                let row = serde_json::to_string(&record);
                batch.put_setting(name, row.expect("a registration has text keys only"));
            }
            None => batch.forget_setting(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{About, Owner, Provenance, ServiceHealth, Timestamp};

    #[test]
    fn a_registration_survives_its_row_and_a_bad_row_costs_nobody_else() {
        let record = RegistrationRecord {
            service_id: "ttp".parse().unwrap(),
            about: About {
                component_id: "ttp".to_owned(),
                ..About::default()
            },
            owner: Some(Owner {
                instance: "default.p.ttp.0.3".parse().unwrap(),
                by: crate::model::Evidence::Name,
            }),
            provenance: Provenance::Registered,
            peer: Some("127.0.0.1".parse().unwrap()),
            first_seen: Timestamp::from_millis(1),
            registered_at: Timestamp::from_millis(2),
            last_heartbeat: Some(Timestamp::from_millis(3)),
            said: ServiceHealth::Degraded,
            metrics: BTreeMap::new(),
            silent_since: None,
        };
        let row = serde_json::to_string(&record).unwrap();
        let settings = BTreeMap::from([
            ("port".to_owned(), "1".to_owned()),
            ("registration/bad".to_owned(), "{".to_owned()),
            ("registration/ttp".to_owned(), row),
            ("tokens".to_owned(), String::new()),
        ]);
        assert_eq!(
            kept(&settings),
            BTreeMap::from([("ttp".parse().unwrap(), record)])
        );
    }
}
