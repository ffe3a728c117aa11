//! Registrations and what runners told, as settings of the store: one each, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{RegistrationRecord, ServiceId};
use crate::reconciler::{Note, NoteKey};
use crate::store::Batch;

const REGISTRATION: &str = "registration/";
const RUN: &str = "run/";
const CHUNK: &str = "chunk/";

/// The registrations among `settings`. One that cannot be read is left out: its component's next
/// heartbeat brings it back.
pub(super) fn kept(settings: &BTreeMap<String, String>) -> BTreeMap<ServiceId, RegistrationRecord> {
    rows::<RegistrationRecord>(settings, REGISTRATION)
        .map(|record| (record.service_id.clone(), record))
        .collect()
}

/// What runners told, among `settings`.
pub(super) fn notes(settings: &BTreeMap<String, String>) -> Vec<Note> {
    let runs = rows(settings, RUN).map(Note::Run);
    runs.chain(rows(settings, CHUNK).map(Note::Chunk)).collect()
}

fn rows<T: DeserializeOwned>(
    settings: &BTreeMap<String, String>,
    prefix: &'static str,
) -> impl Iterator<Item = T> {
    let rows = settings.range(prefix.to_owned()..);
    rows.take_while(move |(name, _)| name.starts_with(prefix))
        .filter_map(|(name, row)| match serde_json::from_str(row) {
            Ok(row) => Some(row),
            Err(error) => {
                tracing::warn!(%name, %error, "a row could not be read and is left out");
                None
            }
        })
}

/// Puts changed registrations into `batch`.
pub(super) fn put(
    batch: &mut Batch,
    registrations: BTreeMap<ServiceId, Option<RegistrationRecord>>,
) {
    for (id, record) in registrations {
        put_row(batch, format!("{REGISTRATION}{id}"), record);
    }
}

/// Puts what runners told into `batch`.
pub(super) fn put_notes(batch: &mut Batch, notes: BTreeMap<NoteKey, Option<Note>>) {
    for (key, note) in notes {
        let name = match key {
            NoteKey::Run(id) => format!("{RUN}{id}"),
            NoteKey::Chunk(id) => format!("{CHUNK}{id}"),
        };
        match note {
            None => batch.forget_setting(name),
            Some(Note::Run(run)) => put_row(batch, name, Some(run)),
            Some(Note::Chunk(chunk)) => put_row(batch, name, Some(chunk)),
        }
    }
}

fn put_row(batch: &mut Batch, name: String, row: Option<impl Serialize>) {
    match row {
        Some(row) => {
            let row = serde_json::to_string(&row);
            batch.put_setting(name, row.expect("records have text keys only"));
        }
        None => batch.forget_setting(name),
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
            hearing: crate::model::Hearing::Current,
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
