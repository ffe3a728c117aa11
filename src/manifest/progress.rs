//! `progress`: how it is seen that a component's work gets on.

use crate::model::{Expected, HumanDuration, OnStall, Port, Progress, Watches};

use super::fields::{Field, Fields};
use super::health::TargetDraft;
use super::problem::{Findings, Span, shown};
use super::references::Resolver;

/// Nothing is looked at so often that less could be seen.
const LEAST_AGE: HumanDuration = HumanDuration::from_secs(1);
/// How long after its start a component may take to get on for the first time.
const STARTUP: HumanDuration = HumanDuration::from_secs(3600);

/// What was written of it.
pub(super) struct ProgressDraft<'t> {
    at: Span,
    watches: WatchesDraft<'t>,
    max_age: HumanDuration,
    startup: HumanDuration,
    expected: Expected,
    on_stall: OnStall,
}

enum WatchesDraft<'t> {
    Metric(String),
    Output,
    Http {
        target: TargetDraft<'t>,
        pointer: Option<String>,
    },
}

impl<'t> ProgressDraft<'t> {
    /// Reads it; `None` when a part is missing or wrong, which was reported.
    pub(super) fn read(field: Field<'t>, findings: &mut Findings<'_>) -> Option<Self> {
        let mut fields = field.fields("`progress`", findings)?;
        let kinds = ["metric", "output", "http"];
        let mut first: Option<Field<'t>> = None;
        for kind in kinds.into_iter().filter_map(|name| fields.get(name)) {
            let Some(first) = first else {
                first = Some(kind);
                continue;
            };
            let message = format!(
                "`progress` watches one thing, not `{}` and `{}`",
                first.name, kind.name
            );
            findings.clash(kind.key_at, message, first.key_at, "the other one");
        }
        if first.is_none() {
            fields.missing(
                &["metric", "output", "http"],
                field.key_at,
                "`progress` watches nothing",
                "add `metric: NAME`, `output: 15m` or `http: {port: PORT, path: PATH}`".to_owned(),
            );
        }
        let max_age = fields.get_cased(findings, "max_age");
        let age = max_age.and_then(|f| f.duration(findings, LEAST_AGE));
        let watched = match first {
            Some(output) if output.name == "output" => {
                if let Some(max_age) = max_age {
                    let message = "`output` says how old the last line may be, and `max_age` again";
                    findings.clash(max_age.key_at, message, output.key_at, "leave one out");
                }
                let age = output.duration(findings, LEAST_AGE);
                age.map(|age| (WatchesDraft::Output, Some(age)))
            }
            Some(metric) if metric.name == "metric" => {
                let name = metric.word(findings);
                name.map(|name| (WatchesDraft::Metric(name.text.to_owned()), age))
            }
            Some(http) => answer(http, findings).map(|watches| (watches, age)),
            None => None,
        };
        let needs_age = first.is_some_and(|first| first.name != "output");
        if needs_age && max_age.is_none() {
            fields.missing(
                &["max_age"],
                field.key_at,
                "`progress` does not say how long nothing may change",
                "add `max_age: 10m`".to_owned(),
            );
        }
        let startup = fields.get("startup");
        let startup = startup.map_or(Some(STARTUP), |f| {
            f.duration(findings, HumanDuration::default())
        });
        let expected = fields.get("while").map_or(Some(Expected::Always), |f| {
            f.choice(
                findings,
                &[("upstream-progressing", Expected::UpstreamProgressing)],
            )
        });
        let actions = [("tell", OnStall::Tell), ("restart", OnStall::Restart)];
        let on_stall = fields.get_cased(findings, "on_stall");
        let on_stall = on_stall.map_or(Some(OnStall::Tell), |f| f.choice(findings, &actions));
        fields.close(findings);
        let (watches, max_age) = watched?;
        Some(Self {
            at: field.key_at,
            watches,
            max_age: max_age?,
            startup: startup?,
            expected: expected?,
            on_stall: on_stall?,
        })
    }

    /// Where it stands.
    pub(super) fn at(&self) -> Span {
        self.at
    }

    /// What it says of a component that serves `ports`.
    pub(super) fn resolve(
        self,
        ports: &[Port],
        resolver: &Resolver<'_>,
        findings: &mut Findings<'_>,
    ) -> Option<Progress> {
        Some(Progress {
            watches: match self.watches {
                WatchesDraft::Metric(name) => Watches::Metric(name),
                WatchesDraft::Output => Watches::Output,
                WatchesDraft::Http { target, pointer } => Watches::Http {
                    target: target.resolve(ports, resolver, findings)?,
                    pointer,
                },
            },
            max_age: self.max_age,
            startup: self.startup,
            expected: self.expected,
            on_stall: self.on_stall,
        })
    }
}

fn answer<'t>(field: Field<'t>, findings: &mut Findings<'_>) -> Option<WatchesDraft<'t>> {
    let mut fields: Fields<'t> = field.fields("`http`", findings)?;
    let target = TargetDraft::read(&mut fields, field, findings);
    let pointer = fields.get("pointer").map(|f| f.word(findings));
    fields.close(findings);
    let pointer = match pointer {
        None => None,
        Some(word) => Some(word?),
    };
    if let Some(pointer) = pointer.filter(|pointer| !pointer.text.starts_with('/')) {
        let dotted = shown(pointer.text).replace('.', "/");
        findings.error(
            pointer.at,
            "`pointer` must start with `/`",
            Some(format!("did you mean `/{dotted}`?")),
        );
        return None;
    }
    Some(WatchesDraft::Http {
        target: target?,
        pointer: pointer.map(|pointer| pointer.text.to_owned()),
    })
}
