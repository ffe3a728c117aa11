//! `${{ components.ID.address }}` and its kin: values that name other components, so that one file
//! serves every driver. `$VAR` and `${VAR}` are left to the component.

use std::collections::BTreeMap;

use crate::model::{ComponentId, ComponentSpec, DriverKind, PipelineKey, Port};

use super::exposure::{Reached, Way};
use super::fields::Text;
use super::problem::{Findings, Span, shown};
use super::suggest;

/// The longest text that a kernel hands to a program, in bytes and with the zero at its end, where
/// pages have 4 KiB. `apply` weighs all of it by the kernel at hand.
const LONGEST_STRING: usize = 131_072;

/// Whether every component of a file could be read as far as its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// What is not among them is not there.
    AllKnown,
    /// One that is not among them may be one of those that could not be read.
    SomeUnread,
}

/// A component that others may ask about.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// Where it runs and what it serves.
    Known(Target),
    /// Its own mistakes were reported, so nothing can be said of it.
    Faulty,
}

/// Where a component can be reached.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub driver: DriverKind,
    /// What its engine calls it, where that resolves names.
    pub name: String,
    pub ports: Vec<Port>,
}

/// Resolves the references in the values of one component.
pub(super) struct Resolver<'a> {
    pub pipeline: &'a PipelineKey,
    pub component: &'a ComponentId,
    pub driver: DriverKind,
    pub peers: &'a BTreeMap<&'a str, Peer>,
    /// Whether the peers are all that there are.
    pub ids: Ids,
}

/// The forms of a reference, for messages.
const FORMS: &str = "known are components.ID.address, .host, .port and .ports.NAME, pipeline.name, component.id and component.replica";

impl Resolver<'_> {
    /// `texts` with their references resolved.
    pub(super) fn texts(&self, texts: &[Text<'_>], findings: &mut Findings<'_>) -> Vec<String> {
        texts
            .iter()
            .map(|text| {
                let resolved = self.text(*text, findings);
                weigh("this argument", resolved.len(), text.at, findings);
                resolved
            })
            .collect()
    }

    /// The value of the variable `name`, with its references resolved.
    pub(super) fn variable(
        &self,
        name: &str,
        text: Text<'_>,
        findings: &mut Findings<'_>,
    ) -> String {
        let resolved = self.text(text, findings);
        let what = format!("variable {}", shown(name));
        weigh(&what, name.len() + 1 + resolved.len(), text.at, findings);
        resolved
    }

    /// `text` with its references resolved. Those to the replica's number stay, in one spelling,
    /// until an instance starts.
    pub(super) fn text(&self, text: Text<'_>, findings: &mut Findings<'_>) -> String {
        self.resolved(text, findings).0
    }

    /// As [`Self::text`]; `None` when one of them cannot be resolved, which was reported.
    pub(super) fn text_if_whole(
        &self,
        text: Text<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<String> {
        let (resolved, is_whole) = self.resolved(text, findings);
        is_whole.then_some(resolved)
    }

    /// `text` as far as its references can be resolved, and whether all can.
    fn resolved(&self, text: Text<'_>, findings: &mut Findings<'_>) -> (String, bool) {
        if memchr::memchr(b'$', text.text.as_bytes()).is_none() {
            return (text.text.to_owned(), true);
        }
        let mut is_whole = true;
        let mut resolved = String::with_capacity(text.text.len());
        let mut rest = text.text;
        while let Some(start) = memchr::memmem::find(rest.as_bytes(), b"${{") {
            resolved.push_str(&rest[..start]);
            let after = &rest[start + 3..];
            let at = self.locate(text, rest.len() - start);
            let Some(end) = after.find("}}") else {
                findings.error(
                    at,
                    "the reference is not closed",
                    Some("end it with `}}`".to_owned()),
                );
                return (resolved, false);
            };
            match self.reference(after[..end].trim(), at, findings) {
                Some(value) => resolved.push_str(&value),
                None => is_whole = false,
            }
            rest = &after[end + 2..];
        }
        resolved.push_str(rest);
        (resolved, is_whole)
    }

    /// Where the reference that starts `left` bytes before the end of `text` stands: the exact
    /// place when the text was written without escapes on one line, else the value.
    fn locate(&self, text: Text<'_>, left: usize) -> Span {
        let offset = text.text.len() - left;
        let written = text.at.end.saturating_sub(text.at.start);
        // Quotes take a byte on either side; anything longer holds escapes or line breaks.
        match written.checked_sub(text.text.len()) {
            Some(0) => Span::new(text.at.start + offset, text.at.end),
            Some(2) => Span::new(text.at.start + 1 + offset, text.at.end - 1),
            _ => text.at,
        }
    }

    fn reference(&self, path: &str, at: Span, findings: &mut Findings<'_>) -> Option<String> {
        let parts: Vec<&str> = path.split('.').map(str::trim).collect();
        match parts.as_slice() {
            ["pipeline", "name"] => Some(self.pipeline.name.to_string()),
            ["component", "id"] => Some(self.component.to_string()),
            ["component", "replica"] => Some(ComponentSpec::REPLICA_REFERENCE.to_owned()),
            ["components", id, field @ ..] => {
                let target = self.target(id, at, findings)?;
                self.address(id, target, field, at, findings)
            }
            _ => {
                let fix = if path.is_empty() {
                    None
                } else {
                    first_word(&parts)
                };
                findings.error(
                    at,
                    format!("`{}` is not a reference", shown(path)),
                    fix.or_else(|| Some(FORMS.to_owned())),
                );
                None
            }
        }
    }

    fn target(&self, id: &str, at: Span, findings: &mut Findings<'_>) -> Option<&Target> {
        match self.peers.get(id) {
            Some(Peer::Known(target)) => Some(target),
            Some(Peer::Faulty) => None,
            None if self.ids == Ids::SomeUnread => None,
            None => {
                let fix = match findings.is_full() {
                    true => None,
                    false => suggest::did_you_mean(id, self.peers.keys().copied()),
                };
                findings.error(at, format!("there is no component `{}`", shown(id)), fix);
                None
            }
        }
    }

    fn address(
        &self,
        id: &str,
        target: &Target,
        field: &[&str],
        at: Span,
        findings: &mut Findings<'_>,
    ) -> Option<String> {
        let first = |findings: &mut Findings<'_>| first_port(id, target, at, findings);
        if self.way(target).is_known_once_placed() {
            return match field {
                ["address" | "host" | "port"] => {
                    first(findings)?;
                    Some(ComponentSpec::placed_reference(id, field))
                }
                ["ports", name]
                    if target
                        .ports
                        .iter()
                        .any(|it| it.name.as_deref() == Some(name)) =>
                {
                    Some(ComponentSpec::placed_reference(id, field))
                }
                _ => self.address_of(id, target, field, at, findings),
            };
        }
        self.address_of(id, target, field, at, findings)
    }

    /// The same where it is known before anything runs.
    fn address_of(
        &self,
        id: &str,
        target: &Target,
        field: &[&str],
        at: Span,
        findings: &mut Findings<'_>,
    ) -> Option<String> {
        let first = |findings: &mut Findings<'_>| first_port(id, target, at, findings);
        match field {
            ["address"] => {
                let port = first(findings)?;
                let (host, port) = self.reach(id, target, port, at, findings)?;
                Some(format!("{host}:{port}"))
            }
            ["port"] => {
                let port = first(findings)?;
                Some(self.reach(id, target, port, at, findings)?.1.to_string())
            }
            ["host"] => {
                self.connects(id, target, at, findings)?;
                Some(self.way(target).host(&target.name, target.ports.first()))
            }
            ["ports", name] => {
                let Some(port) = target
                    .ports
                    .iter()
                    .find(|port| port.name.as_deref() == Some(name))
                else {
                    let names = target.ports.iter().filter_map(|port| port.name.as_deref());
                    findings.error(
                        at,
                        format!("component `{id}` has no port named `{}`", shown(name)),
                        suggest::did_you_mean(name, names),
                    );
                    return None;
                };
                Some(self.reach(id, target, port, at, findings)?.1.to_string())
            }
            _ => {
                let written = field.join(".");
                let fix = suggest::did_you_mean(&written, ["address", "host", "port", "ports"]);
                findings.error(
                    at,
                    format!("`{}` is not known of a component", shown(&written)),
                    fix.or_else(|| Some("known are address, host, port and ports.NAME".to_owned())),
                );
                None
            }
        }
    }

    /// Host and port by which this component reaches `port` of `target`.
    fn reach(
        &self,
        id: &str,
        target: &Target,
        port: &Port,
        at: Span,
        findings: &mut Findings<'_>,
    ) -> Option<(String, u16)> {
        self.connects(id, target, at, findings)?;
        let way = self.way(target);
        let host = way.host(&target.name, Some(port));
        let number = match way.port(port) {
            Reached::At(number) => Some(number),
            Reached::Unpublished => None,
        };
        if number.is_none() {
            findings.error(
                at,
                format!("component `{id}` runs in a container that publishes no port to the host"),
                Some(format!(
                    "add `hostPort` to port {} of `{id}`",
                    port.container_port
                )),
            );
        }
        Some((host, number?))
    }

    /// `None` where no address leads from this component to `target`, which is reported.
    fn connects(
        &self,
        id: &str,
        target: &Target,
        at: Span,
        findings: &mut Findings<'_>,
    ) -> Option<()> {
        if !self.way(target).is_cut_off() {
            return Some(());
        }
        findings.error(
            at,
            format!(
                "`{id}` runs on {}, and {} on {}: no address leads from one to the other",
                target.driver, self.component, self.driver
            ),
            Some(
                "run both on one of them, or write an address that you have made yourself"
                    .to_owned(),
            ),
        );
        None
    }

    /// From this component to `target`.
    fn way(&self, target: &Target) -> Way {
        Way {
            from: self.driver,
            to: target.driver,
        }
    }
}

/// The port of `target` that is meant where none is named; that it has none is reported.
fn first_port<'t>(
    id: &str,
    target: &'t Target,
    at: Span,
    findings: &mut Findings<'_>,
) -> Option<&'t Port> {
    let port = target.ports.first();
    if port.is_none() {
        findings.error(
            at,
            format!("component `{id}` has no port to connect to"),
            Some(format!("add `ports: [{{containerPort: PORT}}]` to `{id}`")),
        );
    }
    port
}

/// Warns of what the kernel would not hand to a program.
fn weigh(what: &str, length: usize, at: Span, findings: &mut Findings<'_>) {
    if length >= LONGEST_STRING {
        findings.warn(
            at,
            format!(
                "{what} is {} bytes long, and most kernels take no more than {LONGEST_STRING}",
                length + 1
            ),
            "put it into a file, and hand over its path".to_owned(),
        );
    }
}

fn first_word(parts: &[&str]) -> Option<String> {
    let known = ["components", "component", "pipeline"];
    match parts {
        [first, rest @ ..] if !known.contains(first) => {
            let meant = suggest::nearest(first, known)?;
            let path: Vec<&str> = std::iter::once(meant).chain(rest.iter().copied()).collect();
            Some(format!("did you mean `{}`?", path.join(".")))
        }
        _ => None,
    }
}
