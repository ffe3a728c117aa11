//! `flowctl diff`, and `apply --dry-run`.

use std::fmt::Write as _;

use super::Context;
use super::args::{self, TextOrJson};
use super::exit::{Exit, Failure};
use super::host::Question;
use super::out::tell;
use super::render::push;
use super::sources::{PATIENCE, gather_to_follow};
use super::text::{Style, Tone, clean, paint, truncated, width};
use crate::api::{ApplyRequest, ClientError, DiffAnswer, Watching, WhenUnready};
use crate::model::Namespace;
use crate::planner::diff::{ComponentDiff, DiffKind, Effect, FieldChange, PipelineDiff, diff};

pub(super) async fn run(cx: &mut Context<'_>, args: args::Diff) -> Result<Exit, Failure> {
    let request = ApplyRequest {
        sources: gather_to_follow(args.files.all(), PATIENCE).await?,
        namespace: cx.global.namespace.clone(),
        watch: Watching::Yes,
        orchestrator: args.orchestrator.map(Into::into),
        when_unready: WhenUnready::Refuse,
        caller: None,
    };
    let answer = show(cx, &request, args.output).await?;
    if answer.pipelines.iter().all(PipelineDiff::is_empty) {
        Ok(Exit::Done)
    } else {
        Ok(Exit::Differs)
    }
}

/// Prints what applying `request` would change.
pub(super) async fn show(
    cx: &mut Context<'_>,
    request: &ApplyRequest,
    output: TextOrJson,
) -> Result<DiffAnswer, Failure> {
    let answer = match cx.client.diff(request).await {
        Err(ClientError::NoDaemon { .. }) => without_daemon(cx, request).await?,
        other => other?,
    };
    if !answer.remarks.rendered.is_empty() {
        tell(answer.remarks.rendered.trim_end());
    }
    match output {
        TextOrJson::Json => {
            let json = serde_json::to_vec(&answer).expect("answers have string keys only");
            cx.out.line(&json)?;
        }
        TextOrJson::Text => cx
            .out
            .put(&render(&answer.pipelines, cx.out.look().style))?,
    }
    Ok(answer)
}

/// Without a daemon what was applied is read from its state; without a state everything would be
/// new.
async fn without_daemon(cx: &Context<'_>, request: &ApplyRequest) -> Result<DiffAnswer, Failure> {
    if let Some(found) = cx.host.look(&cx.state_dir)? {
        return Ok(cx.client.answered_by(found).diff(request).await?);
    }
    let approved = cx.host.check(&Question {
        sources: &request.sources,
        namespace: request.namespace.as_ref(),
        orchestrator: request.orchestrator,
        style: cx.out.look().style,
    })?;
    let specs = approved.pipelines.iter();
    Ok(DiffAnswer {
        pipelines: specs.map(|(_, spec)| diff(None, Some(spec))).collect(),
        remarks: approved.remarks,
    })
}

/// The differences as people read them. Pure.
fn render(pipelines: &[PipelineDiff], style: Style) -> String {
    let mut text = String::new();
    for pipeline in pipelines {
        let name = pipeline.pipeline.as_ref().map(|key| {
            if key.namespace == Namespace::default() {
                key.name.to_string()
            } else {
                key.to_string()
            }
        });
        let name = paint(&name.unwrap_or_default(), Tone::Strong, style);
        let word = match pipeline.change {
            DiffKind::Added => "would be created",
            DiffKind::Removed => "would be taken down",
            DiffKind::Changed => "would change",
            DiffKind::Unchanged => "is as it should be; nothing to do",
        };
        push(&mut text, |text| writeln!(text, "{name} {word}"));
        text.push_str(&fields(&pipeline.fields, "  ", style));
        for component in &pipeline.components {
            one(component, style, &mut text);
        }
    }
    text
}

fn one(component: &ComponentDiff, style: Style, text: &mut String) {
    let (mark, tone) = match component.change {
        DiffKind::Added => ("+", Tone::Good),
        DiffKind::Removed => ("-", Tone::Bad),
        DiffKind::Changed => ("~", Tone::Moving),
        DiffKind::Unchanged => (" ", Tone::Dim),
    };
    let mark = paint(mark, tone, style);
    let effect = effect(component.effect, style);
    push(text, |text| {
        writeln!(text, "  {mark} {}   {effect}", component.id)
    });
    text.push_str(&fields(&component.fields, "      ", style));
}

fn fields(changes: &[FieldChange], indent: &str, style: Style) -> String {
    let lines: Vec<(String, Effect)> = changes
        .iter()
        .map(|change| (words(change), change.effect))
        .collect();
    let longest = lines
        .iter()
        .map(|(words, _)| width(words))
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (words, cost) in &lines {
        let padding = longest - width(words);
        let cost = effect(*cost, style);
        push(&mut text, |text| {
            writeln!(text, "{indent}{words}{:padding$}   {cost}", "")
        });
    }
    text
}

/// `~ env.LOG_LEVEL: info -> debug`.
fn words(change: &FieldChange) -> String {
    // Long enough for any word, short enough for a line.
    const LONGEST: usize = 60;
    let shown = |value: &str| truncated(&clean(value), LONGEST).into_owned();
    let path = clean(&change.path);
    match (&change.from, &change.to) {
        (Some(from), Some(to)) if from == to => format!("~ {path}: {} (changed)", shown(to)),
        (Some(from), Some(to)) => format!("~ {path}: {} -> {}", shown(from), shown(to)),
        (None, Some(to)) => format!("+ {path}: {}", shown(to)),
        (Some(from), None) => format!("- {path}: {}", shown(from)),
        (None, None) => format!("~ {path}"),
    }
}

fn effect(effect: Effect, style: Style) -> String {
    let tone = match effect {
        Effect::AppliesLive => Tone::Dim,
        Effect::Starts(_) => Tone::Good,
        Effect::Stops(_) => Tone::Bad,
        Effect::Restarts => Tone::Moving,
    };
    paint(&effect.to_string(), tone, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PipelineKey;

    fn field(path: &str, from: Option<&str>, to: Option<&str>, effect: Effect) -> FieldChange {
        FieldChange {
            path: path.to_owned(),
            from: from.map(ToOwned::to_owned),
            to: to.map(ToOwned::to_owned),
            effect,
        }
    }

    fn component(id: &str, change: DiffKind, effect: Effect) -> ComponentDiff {
        ComponentDiff {
            id: id.parse().unwrap(),
            change,
            effect,
            fields: Vec::new(),
        }
    }

    #[test]
    fn each_change_tells_what_it_costs() {
        let mut changed = component("ttp-processor", DiffKind::Changed, Effect::Restarts);
        let hidden = Some("(hidden)");
        changed.fields = vec![
            field("env.API_KEY", hidden, hidden, Effect::Restarts),
            field(
                "env.LOG_LEVEL",
                Some("info"),
                Some("debug"),
                Effect::Restarts,
            ),
            field(
                "probes.readiness.period",
                Some("10s"),
                None,
                Effect::AppliesLive,
            ),
            field("replicas", Some("1"), Some("3"), Effect::Starts(2)),
            field("env.EVIL", None, Some("\x1b[2J"), Effect::Restarts),
        ];
        let pipeline = |name: &str, change| PipelineDiff {
            pipeline: Some(PipelineKey {
                namespace: Namespace::default(),
                name: name.parse().unwrap(),
            }),
            change,
            fields: Vec::new(),
            components: Vec::new(),
        };
        let mut ttp = pipeline("ttp", DiffKind::Changed);
        ttp.fields = vec![field(
            "labels.team",
            None,
            Some("data"),
            Effect::AppliesLive,
        )];
        ttp.components = vec![
            component("new", DiffKind::Added, Effect::Starts(1)),
            component("old", DiffKind::Removed, Effect::Stops(2)),
            changed,
        ];
        let text = render(&[ttp, pipeline("other", DiffKind::Unchanged)], Style::Plain);
        insta::assert_snapshot!(text, @r"
        ttp would change
          + labels.team: data   applies live
          + new   starts 1
          - old   stops 2
          ~ ttp-processor   restarts
              ~ env.API_KEY: (hidden) (changed)   restarts
              ~ env.LOG_LEVEL: info -> debug      restarts
              - probes.readiness.period: 10s      applies live
              ~ replicas: 1 -> 3                  starts 2
              + env.EVIL: \u{1b}[2J               restarts
        other is as it should be; nothing to do
        ");
    }
}
