//! `restart`, `restart_policy` and `stop`: when a component runs again, and how it ends.
//!
//! Each has a half-filled form, so that `spec.defaults` can fill what a component leaves open.

use std::collections::BTreeMap;

use crate::model::{
    Backoff, HumanDuration, RestartMode, RestartPolicy, RetryLimit, Signal, StopPolicy, StopTarget,
};

use super::fields::{Field, Fields};
use super::problem::{Findings, Span};
use super::tree::Value;

/// What was written of a restart policy.
#[derive(Clone, Debug, Default)]
pub(super) struct RestartDraft {
    mode: Option<RestartMode>,
    backoff: Option<Backoff>,
    initial_delay: Option<HumanDuration>,
    max_delay: Option<HumanDuration>,
    factor: Option<f64>,
    jitter: Option<f64>,
    max_retries: Option<u32>,
    window: Option<(HumanDuration, Span)>,
    reset_after: Option<HumanDuration>,
    success_codes: Option<Vec<i32>>,
    /// The fields that were written, and where.
    written: BTreeMap<&'static str, Span>,
}

/// The words for when a component runs again, those of other tools included.
const MODES: [(&str, RestartMode); 6] = [
    ("always", RestartMode::Always),
    ("on-failure", RestartMode::OnFailure),
    ("never", RestartMode::Never),
    ("unless-stopped", RestartMode::Always),
    ("no", RestartMode::Never),
    ("false", RestartMode::Never),
];

impl RestartDraft {
    /// Reads `restart` and `restart_policy`, which take a word or a mapping alike.
    pub(super) fn read(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Self {
        let field = fields.first_of(findings, &["restart", "restart_policy"], &["restartPolicy"]);
        field
            .map(|field| Self::of(field, findings))
            .unwrap_or_default()
    }

    fn of(field: Field<'_>, findings: &mut Findings<'_>) -> Self {
        if matches!(field.node.value, Value::Scalar(_)) {
            return Self {
                mode: mode(field, findings),
                ..Self::default()
            };
        }
        let Some(mut fields) = field.fields("a restart policy", findings) else {
            return Self::default();
        };
        let least = HumanDuration::default();
        let mut written = BTreeMap::new();
        let mut take = |name: &'static str, findings: &mut Findings<'_>| {
            let field = fields.get_cased(findings, name)?;
            written.insert(name, field.key_at);
            Some(field)
        };
        let draft = Self {
            mode: take("policy", findings).and_then(|f| mode(f, findings)),
            backoff: take("backoff", findings).and_then(|f| {
                f.choice(
                    findings,
                    &[
                        ("exponential", Backoff::Exponential),
                        ("linear", Backoff::Linear),
                        ("fixed", Backoff::Fixed),
                    ],
                )
            }),
            initial_delay: take("initial_delay", findings)
                .and_then(|f| f.duration(findings, least)),
            max_delay: take("max_delay", findings).and_then(|f| f.duration(findings, least)),
            factor: take("factor", findings).and_then(|f| f.number(findings, 1.0..=100.0)),
            jitter: take("jitter", findings).and_then(|f| f.number(findings, 0.0..=1.0)),
            max_retries: take("max_retries", findings)
                .and_then(|f| f.small(findings, 0..=1_000_000)),
            window: take("window", findings)
                .and_then(|f| Some((f.duration(findings, HumanDuration::from_secs(1))?, f.key_at))),
            reset_after: take("reset_after", findings).and_then(|f| f.duration(findings, least)),
            success_codes: take("success_codes", findings).and_then(|f| success_codes(f, findings)),
            written,
        };
        if let (Some(initial), Some(max)) = (draft.initial_delay, draft.max_delay)
            && initial > max
        {
            findings.error(
                fields.at,
                format!("`initial_delay` ({initial}) is longer than `max_delay` ({max})"),
                Some("make `max_delay` the longer one".to_owned()),
            );
        }
        fields.close(findings);
        draft
    }

    /// The fields that were written, and where.
    pub(super) fn written(&self) -> &BTreeMap<&'static str, Span> {
        &self.written
    }

    /// The policy: what was written, then what `defaults` say, then our own defaults.
    pub(super) fn resolve(&self, defaults: &Self, findings: &mut Findings<'_>) -> RestartPolicy {
        let own = RestartPolicy::default();
        let initial_delay = self
            .initial_delay
            .or(defaults.initial_delay)
            .unwrap_or(own.initial_delay);
        let max_retries = self.max_retries.or(defaults.max_retries);
        let window = self.window.or(defaults.window);
        if let (Some((_, at)), None) = (window, max_retries) {
            findings.error(
                at,
                "`window` without `max_retries` limits nothing",
                Some("add `max_retries`, or leave `window` out".to_owned()),
            );
        }
        let codes = self
            .success_codes
            .clone()
            .or_else(|| defaults.success_codes.clone());
        RestartPolicy {
            mode: self.mode.or(defaults.mode).unwrap_or(own.mode),
            backoff: self.backoff.or(defaults.backoff).unwrap_or(own.backoff),
            initial_delay,
            // A first delay over the default cap is meant, so the cap follows it.
            max_delay: self
                .max_delay
                .or(defaults.max_delay)
                .unwrap_or(own.max_delay)
                .max(initial_delay),
            factor: self.factor.or(defaults.factor).unwrap_or(own.factor),
            jitter: self.jitter.or(defaults.jitter).unwrap_or(own.jitter),
            limit: max_retries.map(|max_retries| RetryLimit {
                max_retries,
                window: window.map(|(length, _)| length),
            }),
            reset_after: self
                .reset_after
                .or(defaults.reset_after)
                .unwrap_or(own.reset_after),
            success_codes: codes.unwrap_or(own.success_codes),
        }
    }
}

fn mode(field: Field<'_>, findings: &mut Findings<'_>) -> Option<RestartMode> {
    if let Value::Scalar(scalar) = &field.node.value
        && matches!(scalar.text.as_ref(), "no" | "false" | "unless-stopped")
    {
        let current = if scalar.text == "unless-stopped" {
            "always"
        } else {
            "never"
        };
        findings.warn(
            field.node.at,
            format!("`{}` is an old spelling", scalar.text),
            Some(format!("write `{current}`")),
        );
        return MODES
            .iter()
            .find(|(word, _)| *word == scalar.text)
            .map(|(_, mode)| *mode);
    }
    field.choice(findings, &MODES[..3])
}

fn success_codes(field: Field<'_>, findings: &mut Findings<'_>) -> Option<Vec<i32>> {
    let items = field.list(findings)?;
    if items.len() > 256 {
        field.mismatch(findings, "at most 256 exit codes", None);
        return None;
    }
    let codes = items.iter().filter_map(|node| {
        let item = Field { node, ..field };
        item.small(findings, 0..=255)
            .and_then(|code| i32::try_from(code).ok())
    });
    Some(codes.collect())
}

/// What was written of `stop`.
#[derive(Clone, Debug, Default)]
pub(super) struct StopDraft {
    signal: Option<(Signal, Span)>,
    to: Option<(StopTarget, Span)>,
    grace_period: Option<HumanDuration>,
}

impl StopDraft {
    /// Reads `stop`.
    pub(super) fn read(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Self {
        let Some(mut fields) = fields
            .get("stop")
            .and_then(|field| field.fields("`stop`", findings))
        else {
            return Self::default();
        };
        let draft = Self {
            signal: fields
                .get("signal")
                .and_then(|f| Some((f.parsed(findings)?, f.key_at))),
            to: fields.get("to").and_then(|f| {
                let choices = [
                    ("all", StopTarget::All),
                    ("group", StopTarget::Group),
                    ("main", StopTarget::Main),
                ];
                Some((f.choice(findings, &choices)?, f.key_at))
            }),
            grace_period: fields
                .get_cased(findings, "grace_period")
                .and_then(|f| f.duration(findings, HumanDuration::default())),
        };
        fields.close(findings);
        draft
    }

    /// Where the component itself names a signal.
    pub(super) fn signal_at(&self) -> Option<Span> {
        self.signal.map(|(_, at)| at)
    }

    /// Who the component itself wants to be signalled, and where it says so.
    pub(super) fn target(&self) -> Option<(StopTarget, Span)> {
        self.to
    }

    /// The policy: what was written, then what `defaults` say, then our own defaults.
    pub(super) fn resolve(&self, defaults: &Self) -> StopPolicy {
        let own = StopPolicy::default();
        StopPolicy {
            // Without a word an image's own STOPSIGNAL holds, so no default stands here.
            signal: self.signal.or(defaults.signal).map(|(signal, _)| signal),
            to: self.to.or(defaults.to).map_or(own.to, |(to, _)| to),
            grace_period: self
                .grace_period
                .or(defaults.grace_period)
                .unwrap_or(own.grace_period),
        }
    }
}
