//! Which nodes do not report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::client::Call;
use super::wire::{self, Node, condition};
use super::{Inner, lock, why};

/// How soon a node is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Why nothing is known of what runs there.
    silent: BTreeMap<String, String>,
    looked: BTreeMap<String, Instant>,
}

impl Nodes {
    /// Why nothing is known of what runs on these.
    pub(super) fn silent(&self) -> BTreeMap<String, String> {
        self.silent.clone()
    }

    /// Which of `doubted` are to be looked at now.
    pub(super) fn due(&mut self, doubted: BTreeSet<String>, now: Instant) -> Vec<String> {
        self.silent.retain(|node, _| doubted.contains(node));
        self.looked.retain(|node, _| doubted.contains(node));
        let due = doubted.into_iter().filter(|node| {
            let looked = self.looked.get(node);
            looked.is_none_or(|at| now.saturating_duration_since(*at) >= AGAIN)
        });
        let due: Vec<String> = due.collect();
        for node in &due {
            self.looked.insert(node.clone(), now);
        }
        due
    }

    /// Takes in what is known of a node; answers whether it is news.
    fn note(&mut self, node: &str, silence: Option<String>) -> bool {
        let was_silent = self.silent.contains_key(node);
        let is_silent = silence.is_some();
        match silence {
            Some(why) => drop(self.silent.insert(node.to_owned(), why)),
            None => drop(self.silent.remove(node)),
        }
        was_silent != is_silent
    }
}

impl Inner {
    /// Looks whether a node reports; answers whether that is news.
    pub(super) async fn look_at_node(&self, name: &str) -> bool {
        let Ok(api) = self.api().await else {
            return false;
        };
        let path = format!("/api/v1/nodes/{name}");
        let silence = match api.call::<Node>(Call::get(path)).await {
            Ok(node) => {
                let ready = condition(&node.status.conditions, "Ready");
                let unknown = ready.filter(|it| it.status == "Unknown");
                unknown.map(|ready| {
                    let last = wire::time(ready.last_heartbeat_time.as_deref());
                    why::of_node(name, last)
                })
            }
            Err(failure) if failure.is_not_found() => Some(format!(
                "node {name} is not of the cluster any more, and its pods have not been ended yet"
            )),
            // Without the right to look nothing is known of the node, and the pod is believed.
            Err(_) => return false,
        };
        lock(&self.nodes).note(name, silence)
    }
}
