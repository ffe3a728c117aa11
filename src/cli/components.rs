//! `flowctl registry`: who is registered with a control plane.

use std::fmt::Write as _;

use super::args::{Components, ComponentsVerb, Seek, TextOrJson};
use super::exit::{Exit, Failure};
use super::out::{Out, tell};
use super::render::push;
use super::text::{Cell, Look, Style, Tone, clean, draw, paint, short, widths};
use super::{Context, Stateless};
use crate::api::{ApiError, ErrorCode};
use crate::control_plane::{Elsewhere, KeyError, Keyring, RemoteError, components_at};
use crate::daemon::{DaemonError, in_full};
use crate::model::{
    ComponentEntry, ComponentList, HumanDuration, ServiceHealth, ServiceId, Timestamp,
};
use crate::store;

/// Whether the verb is about a control plane that is not ours, so that no state is looked at.
pub(super) fn is_about_another(args: &Components) -> bool {
    args.remote.control_plane_address.is_some()
}

pub(super) async fn run(cx: &mut Context<'_>, args: Components) -> Result<Exit, Failure> {
    let now = cx.clock.now();
    let format = args.verb.output().unwrap_or(args.format);
    let sought = match sought(args.verb) {
        Ok(sought) => sought,
        Err(Keys::Issue { name, life }) => {
            let token = keys(cx)?.issue_outside(&name, now, life.get());
            cx.out.line(token.as_bytes())?;
            return Ok(Exit::Done);
        }
        Err(Keys::Rotate) => return rotate(cx),
    };
    let entries = cx.client.components().await?.components;
    tell_of(&mut cx.out, sought, format, entries, now)
}

/// The same of another control plane.
pub(super) async fn run_elsewhere(
    cx: &mut Stateless<'_>,
    args: Components,
) -> Result<Exit, Failure> {
    let format = args.verb.output().unwrap_or(args.format);
    let sought = sought(args.verb).map_err(|_| {
        Failure::Usage(
            "the keys of another control plane are not here; do it on its host".to_owned(),
        )
    })?;
    let Some(place) = args.remote.place()? else {
        return Err(Failure::Usage("which control plane?".to_owned()));
    };
    let entries = elsewhere(&place).await?;
    let now = cx.clock.now();
    tell_of(&mut cx.out, sought, format, entries, now)
}

/// Who is asked for.
enum Sought {
    All,
    Having(Seek),
    Named(String),
}

/// What is done with the keys of a state directory.
enum Keys {
    Issue {
        name: ServiceId,
        life: HumanDuration,
    },
    Rotate,
}

fn sought(verb: ComponentsVerb) -> Result<Sought, Keys> {
    match verb {
        ComponentsVerb::IssueToken { name, life } => Err(Keys::Issue { name, life }),
        ComponentsVerb::RotateKeys => Err(Keys::Rotate),
        // What is ill has to be seen, so there is nothing to leave out.
        ComponentsVerb::List {
            include_unhealthy: _,
            output: _,
        } => Ok(Sought::All),
        ComponentsVerb::Find(seek) => Ok(Sought::Having(seek)),
        ComponentsVerb::Show { name, output: _ } => Ok(Sought::Named(name)),
    }
}

fn tell_of(
    out: &mut Out,
    sought: Sought,
    format: TextOrJson,
    entries: Vec<ComponentEntry>,
    now: Timestamp,
) -> Result<Exit, Failure> {
    match sought {
        Sought::All => show(out, format, entries, now),
        Sought::Having(seek) => {
            let found = entries.into_iter().filter(|entry| is_sought(entry, &seek));
            show(out, format, found.collect(), now)
        }
        Sought::Named(name) => {
            let is_meant = |entry: &ComponentEntry| {
                entry.service_id.as_str() == name || entry.component == name
            };
            let meant: Vec<_> = entries.into_iter().filter(is_meant).collect();
            if meant.is_empty() {
                return Err(Failure::NotFound(format!(
                    "no component is registered as `{name}`"
                )));
            }
            match format {
                TextOrJson::Json => show(out, format, meant, now),
                TextOrJson::Text => {
                    let style = out.look().style;
                    for entry in &meant {
                        out.put(&whole(entry, style, now))?;
                    }
                    Ok(Exit::Done)
                }
            }
        }
    }
}

/// Gives the state directory a new token key; a daemon that has it takes it up by itself.
fn rotate(cx: &Context<'_>) -> Result<Exit, Failure> {
    keys(cx)?.rotate().map_err(no_keys)?;
    tell("tokens are signed with a new key; a running daemon does so within seconds");
    Ok(Exit::Done)
}

/// The token keys of the state directory.
fn keys(cx: &Context<'_>) -> Result<Keyring, Failure> {
    if !cx.state_dir.is_dir() {
        let state_dir = cx.state_dir.clone();
        return Err(Failure::NoState { state_dir });
    }
    // Whoever could exchange the keys could sign for anybody.
    store::make_private(&cx.state_dir).map_err(DaemonError::from)?;
    Keyring::open(&cx.state_dir).map_err(no_keys)
}

fn no_keys(error: KeyError) -> Failure {
    Failure::Told(ApiError::new(ErrorCode::Refused, in_full(error)))
}

/// Who is registered with another control plane.
pub(super) async fn elsewhere(place: &Elsewhere) -> Result<Vec<ComponentEntry>, Failure> {
    components_at(place).await.map_err(|error| match &error {
        RemoteError::Address { .. } => Failure::Usage(error.to_string()),
        RemoteError::Unreachable { .. } => Failure::NoControlPlane(error.to_string()),
        RemoteError::Refused { .. } => {
            Failure::Told(ApiError::new(ErrorCode::Refused, error.to_string()))
        }
    })
}

fn show(
    out: &mut Out,
    format: TextOrJson,
    entries: Vec<ComponentEntry>,
    now: Timestamp,
) -> Result<Exit, Failure> {
    match format {
        TextOrJson::Text => {
            let look = out.look();
            out.put(&table(&entries, look, now))?;
        }
        TextOrJson::Json => {
            let list = ComponentList::new(entries);
            out.line(&serde_json::to_vec(&list).expect("a list has string keys only"))?;
        }
    }
    Ok(Exit::Done)
}

/// Whether a component has all that is asked for.
fn is_sought(entry: &ComponentEntry, seek: &Seek) -> bool {
    let handles = |types: &[String], wanted: &Option<String>| {
        wanted.as_ref().is_none_or(|wanted| types.contains(wanted))
    };
    let carries = seek
        .metadata
        .iter()
        .all(|pair| entry.metadata.get(&pair.key) == Some(&pair.value));
    handles(&entry.input_event_types, &seek.input)
        && handles(&entry.output_event_types, &seek.output)
        && carries
        && (seek.include_unhealthy || entry.is_healthy())
}

/// One line for each. Pure.
pub(super) fn table(entries: &[ComponentEntry], look: Look, now: Timestamp) -> String {
    if entries.is_empty() {
        return "no component is registered\n".to_owned();
    }
    let titles = [
        "SERVICE",
        "COMPONENT",
        "KIND",
        "HEALTH",
        "HEARTBEAT",
        "INSTANCE",
    ];
    let mut rows = vec![
        titles
            .iter()
            .map(|title| Cell::new(title).toned(Tone::Dim))
            .collect(),
    ];
    rows.extend(entries.iter().map(|entry| {
        vec![
            Cell::new(clean(entry.service_id.as_str())).toned(Tone::Strong),
            Cell::new(clean(&entry.component)),
            Cell::new(entry.kind.to_string()),
            Cell::new(entry.health.to_string()).toned(tone(entry.health)),
            Cell::new(age(entry.last_heartbeat, now)),
            Cell::new(
                entry
                    .instance
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ),
        ]
    }));
    let mut text = String::new();
    draw(&rows, &widths(&rows), look, &mut text);
    text
}

/// How long ago, for people; `never` for never.
pub(super) fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(
        || "never".to_owned(),
        |at| format!("{} ago", short(now.since(at))),
    )
}

fn tone(health: ServiceHealth) -> Tone {
    match health {
        ServiceHealth::Healthy => Tone::Good,
        ServiceHealth::Starting | ServiceHealth::Stopping | ServiceHealth::Unknown => Tone::Moving,
        ServiceHealth::Degraded | ServiceHealth::Unhealthy => Tone::Bad,
    }
}

/// All that is known of one. Pure.
fn whole(entry: &ComponentEntry, style: Style, now: Timestamp) -> String {
    let mut text = String::new();
    let name = paint(&clean(entry.service_id.as_str()), Tone::Strong, style);
    let health = paint(&entry.health.to_string(), tone(entry.health), style);
    push(&mut text, |text| {
        writeln!(text, "{name}: {health} {}", entry.kind)
    });
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            let value = clean(&value).into_owned();
            push(&mut text, |text| writeln!(text, "  {name:<12} {value}"));
        }
    };
    field("component", entry.component.clone());
    field("name", entry.name.clone());
    field("version", entry.version.clone());
    if let Some(instance) = &entry.instance {
        let by = entry
            .known_by
            .map(|by| format!(" (known by its {by})"))
            .unwrap_or_default();
        field("instance", format!("{instance}{by}"));
    }
    field(
        "registered",
        entry
            .registered_at
            .map(|at| age(Some(at), now))
            .unwrap_or_default(),
    );
    field("heartbeat", age(entry.last_heartbeat, now));
    field("endpoint", entry.endpoint.clone());
    field("health at", entry.health_endpoint.clone());
    field("reads", entry.input_event_types.join(", "));
    field("writes", entry.output_event_types.join(", "));
    for (name, value) in &entry.metadata {
        field("metadata", format!("{name} = {value}"));
    }
    for (name, value) in &entry.metrics {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        field("metric", format!("{name} = {value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::args::Pair;
    use super::*;

    fn entry() -> ComponentEntry {
        ComponentEntry {
            service_id: "ttp".parse().unwrap(),
            component: "ttp".to_owned(),
            kind: crate::model::ServiceKind::Processor,
            health: ServiceHealth::Healthy,
            registered_at: Some(Timestamp::from_millis(1_000)),
            last_heartbeat: Some(Timestamp::from_millis(58_000)),
            instance: "default.p.ttp.0.3".parse().ok(),
            known_by: Some(crate::model::Evidence::HealthPort),
            name: String::new(),
            version: "1.0".to_owned(),
            endpoint: ":50051".to_owned(),
            health_endpoint: String::new(),
            input_event_types: vec!["ledger".to_owned()],
            output_event_types: vec!["transfer".to_owned()],
            metadata: [("network".to_owned(), "testnet".to_owned())].into(),
            metrics: [("success_count".to_owned(), 12.into())].into(),
        }
    }

    const NOW: i64 = 61_000;

    #[test]
    fn the_list_tells_who_how_and_when_it_was_last_heard_of() {
        let look = Look {
            columns: None,
            style: Style::Plain,
        };
        insta::assert_snapshot!(table(&[entry()], look, Timestamp::from_millis(NOW)), @r"
        SERVICE  COMPONENT  KIND       HEALTH   HEARTBEAT  INSTANCE
        ttp      ttp        processor  healthy  3s ago     default.p.ttp.0.3
        ");
    }

    #[test]
    fn one_is_shown_with_all_that_it_said_and_nothing_that_it_did_not() {
        insta::assert_snapshot!(whole(&entry(), Style::Plain, Timestamp::from_millis(NOW)), @r"
        ttp: healthy processor
          component    ttp
          version      1.0
          instance     default.p.ttp.0.3 (known by its health port)
          registered   1m0s ago
          heartbeat    3s ago
          endpoint     :50051
          reads        ledger
          writes       transfer
          metadata     network = testnet
          metric       success_count = 12
        ");
    }

    #[test]
    fn it_is_found_by_what_it_reads_writes_and_carries() {
        let nothing = Seek {
            input: None,
            output: None,
            metadata: vec![],
            include_unhealthy: false,
        };
        let network = |value: &str| Pair {
            key: "network".to_owned(),
            value: value.to_owned(),
        };
        for (seek, found) in [
            (nothing.clone(), true),
            (
                Seek {
                    input: Some("ledger".to_owned()),
                    ..nothing.clone()
                },
                true,
            ),
            (
                Seek {
                    input: Some("transfer".to_owned()),
                    ..nothing.clone()
                },
                false,
            ),
            (
                Seek {
                    output: Some("transfer".to_owned()),
                    ..nothing.clone()
                },
                true,
            ),
            (
                Seek {
                    metadata: vec![network("testnet")],
                    ..nothing.clone()
                },
                true,
            ),
            (
                Seek {
                    metadata: vec![network("mainnet")],
                    ..nothing.clone()
                },
                false,
            ),
        ] {
            assert_eq!(is_sought(&entry(), &seek), found, "{seek:?}");
        }
        let ill = ComponentEntry {
            health: ServiceHealth::Unhealthy,
            ..entry()
        };
        assert!(!is_sought(&ill, &nothing));
        assert!(is_sought(
            &ill,
            &Seek {
                include_unhealthy: true,
                ..nothing
            }
        ));
    }
}
