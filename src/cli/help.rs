//! `flowctl help`: verbs by task, one verb, or a topic.

use clap::{Command, CommandFactory};

use super::Stateless;
use super::args::{Cli, Help};
use super::exit::{Exit, Failure};
use super::text::{Style, Tone, paint};

/// A page that belongs to no single verb.
pub struct Topic {
    /// What it is asked for by.
    pub name: &'static str,
    /// Its text, in Markdown: a heading, a summary of two lines, the rest.
    pub text: &'static str,
}

macro_rules! topics {
    ($($name:literal),* $(,)?) => {
        /// All topics, in the order in which one would read them.
        pub const TOPICS: &[Topic] = &[$(Topic {
            name: $name,
            text: include_str!(concat!("topics/", $name, ".md")),
        }),*];
    };
}

topics![
    "arguments",
    "manifest",
    "behaviour",
    "states",
    "logs",
    "containers",
    "kubernetes",
    "nomad",
    "images",
    "limits",
    "preflight",
    "run",
    "notify",
    "metrics",
    "control-plane",
    "environment",
    "state",
    "systemd",
    "security",
    "status-json",
    "exit-codes",
    "events",
];

impl Topic {
    /// What it is about, in one line.
    pub fn summary(&self) -> &'static str {
        let mut lines = self.text.lines().skip(1).filter(|line| !line.is_empty());
        lines.next().unwrap_or_default()
    }
}

/// Verbs by what one wants to do.
pub const TASKS: [(&str, &[&str]); 5] = [
    (
        "Run pipelines",
        &[
            "init", "validate", "graph", "render", "diff", "apply", "run", "start", "stop",
            "restart", "wait", "delete", "down",
        ],
    ),
    (
        "See what runs",
        &[
            "status", "ui", "web", "why", "describe", "top", "logs", "events", "registry",
            "metrics", "notify",
        ],
    ),
    ("Work beside a component", &["exec", "shell", "env"]),
    (
        "Set a host up",
        &[
            "daemon",
            "install",
            "uninstall",
            "image",
            "kubernetes",
            "doctor",
            "bundle",
            "version",
        ],
    ),
    (
        "Look things up",
        &["help", "explain", "schema", "completion"],
    ),
];

pub(super) fn run(cx: &mut Stateless<'_>, args: Help) -> Result<Exit, Failure> {
    let style = cx.out.look().style;
    let Some(first) = args.what.first() else {
        let text = by_task(Cli::command()).render_long_help();
        cx.out.put(&text.to_string())?;
        cx.out.put(&list())?;
        return Ok(Exit::Done);
    };
    if args.what.len() == 1 && first == "topics" {
        cx.out.put(&list())?;
        return Ok(Exit::Done);
    }
    let topic = TOPICS
        .iter()
        .find(|topic| args.what.len() == 1 && topic.name == first);
    let mut command = by_task(Cli::command());
    command.build();
    let mut verb = Some(&mut command);
    for word in &args.what {
        verb = verb.and_then(|command| command.find_subcommand_mut(word));
    }
    if verb.is_none() && topic.is_none() {
        return Err(Failure::Usage(format!(
            "there is no command and no topic `{}`; `flowctl help topics` lists the topics",
            args.what.join(" ")
        )));
    }
    // Some words are both: what one types comes first.
    if let Some(verb) = verb {
        cx.out.put(&verb.render_long_help().to_string())?;
        cx.out.put(if topic.is_some() { "\n" } else { "" })?;
    }
    if let Some(topic) = topic {
        cx.out.put(&drawn(topic.text, style))?;
    }
    Ok(Exit::Done)
}

/// The topics with a line on each.
fn list() -> String {
    let width = TOPICS
        .iter()
        .map(|topic| topic.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::from("\nTopics, by `flowctl help TOPIC`:\n");
    for topic in TOPICS {
        text.push_str(&format!("  {:<width$}  {}\n", topic.name, topic.summary()));
    }
    text
}

/// A topic as it is shown: headings stand out, the rest is as it is written.
fn drawn(text: &str, style: Style) -> String {
    let mut shown = String::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let heading = line.strip_prefix("# ").or_else(|| line.strip_prefix("## "));
        match heading.filter(|_| !is_code) {
            Some(heading) => shown.push_str(&paint(heading, Tone::Strong, style)),
            None => shown.push_str(line),
        }
        shown.push('\n');
    }
    shown
}

/// `command` with its verbs listed by what one wants to do.
pub(super) fn by_task(command: Command) -> Command {
    let about = |name: &str| {
        let found = command.find_subcommand(name);
        found.and_then(Command::get_about).map(ToString::to_string)
    };
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (task, verbs) in TASKS {
        text.push_str(&format!("\n{task}:\n"));
        for verb in verbs {
            text.push_str(&format!(
                "  {verb:<10}  {}\n",
                about(verb).unwrap_or_default()
            ));
        }
    }
    text.push_str("\nOptions:\n{options}{after-help}\n");
    command.help_template(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_verb_is_listed_under_one_task() {
        let command = Cli::command();
        let known: BTreeSet<&str> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(Command::get_name)
            .collect();
        let listed: Vec<&str> = TASKS
            .iter()
            .flat_map(|(_, verbs)| *verbs)
            .copied()
            .collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), known);
        assert_eq!(listed.len(), known.len(), "none is listed twice");
    }

    #[test]
    fn every_topic_begins_with_what_it_is_about() {
        for topic in TOPICS {
            assert!(topic.text.starts_with("# "), "{}", topic.name);
            let summary = topic.summary();
            assert!(summary.len() > 20 && summary.len() <= 110, "{summary}");
        }
    }
}
