//! The probes of a component as the kubelet asks them.

use serde_json::{Map, Value, json};

use super::pod::escaped;
use crate::model::{HumanDuration, Probe, ProbeCheck, Probes};

/// Failures of the startup probe that stands in for a readiness probe: it never gives up.
const FOR_EVER: u32 = 1_000_000;

/// The probes of one replica, by the names that a pod has for them. A heartbeat is none of the kubelet's:
/// flowctl hears it.
pub(super) fn of(probes: &Probes) -> Map<String, Value> {
    let Probes {
        startup,
        readiness,
        liveness,
    } = probes;
    let mut asked = Map::new();
    let mut set = |name: &str, probe: Option<Value>| {
        if let Some(probe) = probe {
            asked.insert(name.to_owned(), probe);
        }
    };
    let begins = startup.as_ref().and_then(asked_once);
    // The kubelet asks whether a pod is ready once a period. Its first success is found within a second
    // all the same where a startup probe asks the same until then. Not where there is a liveness probe,
    // which would wait for it: what hangs before it is ready could not be told.
    let early = || {
        let probe = readiness.as_ref().filter(|_| liveness.is_none())?;
        let mut early = check(&probe.check)?;
        early.insert("periodSeconds".to_owned(), 1.into());
        early.insert("timeoutSeconds".to_owned(), seconds(probe.timeout).into());
        early.insert("failureThreshold".to_owned(), FOR_EVER.into());
        Some(Value::Object(early))
    };
    set("startupProbe", begins.or_else(early));
    set("readinessProbe", readiness.as_ref().and_then(repeated));
    set("livenessProbe", liveness.as_ref().and_then(asked_once));
    asked
}

/// A probe that has passed once it passes once, which is all that the kubelet takes of these two.
fn asked_once(probe: &Probe) -> Option<Value> {
    let mut asked = check(&probe.check)?;
    pace(&mut asked, probe);
    Some(Value::Object(asked))
}

fn repeated(probe: &Probe) -> Option<Value> {
    let mut asked = check(&probe.check)?;
    pace(&mut asked, probe);
    if probe.successes > 1 {
        asked.insert("successThreshold".to_owned(), probe.successes.into());
    }
    Some(Value::Object(asked))
}

fn pace(asked: &mut Map<String, Value>, probe: &Probe) {
    asked.insert("periodSeconds".to_owned(), seconds(probe.period).into());
    asked.insert("timeoutSeconds".to_owned(), seconds(probe.timeout).into());
    asked.insert("failureThreshold".to_owned(), probe.failures.max(1).into());
}

fn check(check: &ProbeCheck) -> Option<Map<String, Value>> {
    let (name, asked) = match check {
        ProbeCheck::Http(target) => (
            "httpGet",
            json!({"path": target.path, "port": target.port.number()}),
        ),
        ProbeCheck::Grpc { port, service } => {
            let mut asked = json!({"port": port.number()});
            if !service.is_empty() {
                asked["service"] = service.clone().into();
            }
            ("grpc", asked)
        }
        ProbeCheck::Tcp { port } => ("tcpSocket", json!({"port": port.number()})),
        ProbeCheck::Exec { command } => {
            let command: Vec<String> = command.iter().map(|word| escaped(word)).collect();
            ("exec", json!({"command": command}))
        }
        ProbeCheck::Heartbeat { .. } => return None,
    };
    let mut map = Map::new();
    map.insert(name.to_owned(), asked);
    Some(map)
}

/// Whole seconds, at least one: the cluster knows no others.
pub(super) fn seconds(duration: HumanDuration) -> u64 {
    let duration = duration.get();
    let up = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(up).max(1)
}
