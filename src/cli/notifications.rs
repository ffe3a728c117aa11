//! `flowctl notify`: who is told of what is wrong, and whether that works.

use super::Context;
use super::args::{Notify, NotifyVerb, TextOrJson};
use super::exit::{Exit, Failure};
use super::text::{Cell, Look, Tone, clean, draw, paint, short, widths};
use crate::model::{Notifications, TargetStatus, Timestamp};

pub(super) async fn run(cx: &mut Context<'_>, args: Notify) -> Result<Exit, Failure> {
    let known = match args.verb {
        NotifyVerb::Test { name } => {
            cx.client.notify_test(&name).await?;
            let answer = match args.output {
                TextOrJson::Text => format!("{name} took it"),
                TextOrJson::Json => serde_json::json!({"target": name, "taken": true}).to_string(),
            };
            cx.out.line(answer.as_bytes())?;
            return Ok(Exit::Done);
        }
        NotifyVerb::List | NotifyVerb::Pending => cx.client.notifications().await?,
    };
    if args.output == TextOrJson::Json {
        let json = serde_json::to_vec(&known).expect("it has string keys only");
        cx.out.line(&json)?;
        return Ok(Exit::Done);
    }
    let (look, now) = (cx.out.look(), cx.clock.now());
    let text = match args.verb {
        NotifyVerb::Pending => pending(&known, look, now),
        NotifyVerb::List | NotifyVerb::Test { .. } => list(&known, look, now),
    };
    cx.out.put(&text)?;
    Ok(Exit::Done)
}

fn list(known: &Notifications, look: Look, now: Timestamp) -> String {
    let mut text = String::new();
    if let Some(problem) = &known.problem {
        let line = format!("problem  {}", clean(&problem.in_place()));
        text.push_str(&paint(&line, Tone::Bad, look.style));
        text.push_str("\n         the last good version is in force\n");
    }
    if known.targets.is_empty() {
        text.push_str(&format!(
            "nobody is told; say in {} who should be\n",
            clean(&known.file.to_string_lossy())
        ));
        return text;
    }
    let titles = ["TARGET", "TO", "WHEN", "DELIVERED", "PENDING", "STATE"];
    let mut rows = vec![
        titles
            .map(|title| Cell::new(title).toned(Tone::Dim))
            .to_vec(),
    ];
    for target in &known.targets {
        let state = state(target, now);
        let tone = if target.failing_since.is_some() {
            Tone::Bad
        } else {
            Tone::Good
        };
        rows.push(vec![
            Cell::new(target.name.to_string()),
            Cell::new(target.to.clone()),
            Cell::new(target.when.clone()),
            Cell::new(target.delivered.to_string()),
            Cell::new(target.pending.to_string()),
            Cell::new(state).toned(tone),
        ]);
    }
    draw(&rows, &widths(&rows), look, &mut text);
    text
}

fn state(target: &TargetStatus, now: Timestamp) -> String {
    let mut state = match (
        &target.failing_since,
        &target.last_error,
        target.last_delivered,
    ) {
        (Some(since), Some(why), _) => {
            format!("failing for {}: {why}", short(now.since(*since)))
        }
        (_, _, Some(at)) => format!("took one {} ago", short(now.since(at))),
        (_, _, None) => "nothing sent yet".to_owned(),
    };
    if target.dropped > 0 {
        state.push_str(&format!("; {} given up", target.dropped));
    }
    state
}

fn pending(known: &Notifications, look: Look, now: Timestamp) -> String {
    if known.pending.is_empty() {
        return "nothing waits to be delivered\n".to_owned();
    }
    let titles = ["ID", "TARGET", "STATUS", "SINCE", "NEXT TRY", "SUMMARY"];
    let mut rows = vec![
        titles
            .map(|title| Cell::new(title).toned(Tone::Dim))
            .to_vec(),
    ];
    for message in &known.pending {
        let next = message.next_try.map_or_else(
            || "-".to_owned(),
            |at| format!("in {}", short(at.since(now))),
        );
        rows.push(vec![
            Cell::new(message.id.clone()),
            Cell::new(message.target.to_string()),
            Cell::new(message.status.to_string()),
            Cell::new(short(now.since(message.at))),
            Cell::new(next),
            Cell::new(message.summary.clone()),
        ]);
    }
    let mut text = String::new();
    draw(&rows, &widths(&rows), look, &mut text);
    text
}
