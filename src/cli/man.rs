//! `flowctl man`: manual pages, made of the same definitions as `--help` and of the help topics.

use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::Stateless;
use super::args::{Cli, Man};
use super::exit::{Exit, Failure};
use super::help::{TOPICS, Topic};

/// A page of the manual.
struct Page {
    /// `flowctl-apply.1`.
    file: String,
    text: String,
}

pub(super) fn run(cx: &mut Stateless<'_>, args: Man) -> Result<Exit, Failure> {
    let failed = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| Failure::File {
            operation,
            path,
            source,
        }
    };
    std::fs::create_dir_all(&args.folder).map_err(failed("make", &args.folder))?;
    for page in pages() {
        let path = args.folder.join(page.file);
        std::fs::write(&path, page.text).map_err(failed("write", &path))?;
        cx.out.put(&format!("{}\n", path.display()))?;
    }
    Ok(Exit::Done)
}

fn pages() -> Vec<Page> {
    let mut command = Cli::command();
    command.build();
    let mut pages = vec![of_command(&command, "flowctl")];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages.push(of_command(verb, &format!("flowctl-{}", verb.get_name())));
    }
    pages.extend(TOPICS.iter().map(of_topic));
    pages
}

fn head(name: &str, section: u8, summary: &str) -> String {
    format!(
        ".TH {} {section} \"\" \"flowctl {}\"\n.SH NAME\n{} \\- {}\n",
        escaped(&name.to_uppercase()),
        env!("CARGO_PKG_VERSION"),
        escaped(name),
        escaped(summary)
    )
}

fn of_command(command: &Command, name: &str) -> Page {
    let about = |command: &Command| {
        let about = command.get_about().map(ToString::to_string);
        about.unwrap_or_default()
    };
    let mut text = head(name, 1, about(command).lines().next().unwrap_or_default());
    let mut usage = command.clone().render_usage().to_string();
    usage = usage.trim_start_matches("Usage: ").to_owned();
    text.push_str(&format!(".SH SYNOPSIS\n.nf\n{}\n.fi\n", literal(&usage)));
    if let Some(long) = command.get_long_about() {
        text.push_str(&format!(
            ".SH DESCRIPTION\n{}",
            paragraphs(&long.to_string())
        ));
    }
    let verbs: Vec<&Command> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        .collect();
    if !verbs.is_empty() {
        text.push_str(".SH COMMANDS\n");
    }
    for verb in verbs {
        let named = escaped(verb.get_name());
        text.push_str(&format!(".TP\n\\fB{named}\\fR\n{}\n", line(&about(verb))));
        for arg in own_arguments(verb, command) {
            text.push_str(&format!(".RS\n{}.RE\n", of_arg(arg)));
        }
    }
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .collect();
    if !arguments.is_empty() {
        text.push_str(".SH OPTIONS\n");
    }
    arguments.iter().for_each(|arg| text.push_str(&of_arg(arg)));
    if let Some(after) = command.get_after_help() {
        text.push_str(&format!(
            ".SH NOTES\n.nf\n{}\n.fi\n",
            literal(&after.to_string())
        ));
    }
    text.push_str(".SH SEE ALSO\n\\fBflowctl\\fR(1), \\fBflowctl help topics\\fR\n");
    Page {
        file: format!("{name}.1"),
        text,
    }
}

/// The arguments of a verb of a verb, which has no page of its own.
fn own_arguments<'a>(verb: &'a Command, of: &Command) -> Vec<&'a Arg> {
    if of.get_name() == "flowctl" {
        return Vec::new();
    }
    let own = verb.get_arguments();
    own.filter(|arg| !arg.is_hide_set() && !arg.is_global_set() && arg.get_id() != "help")
        .collect()
}

fn of_arg(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(<[_]>::first);
    let value = value.filter(|_| arg.get_action().takes_values());
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let named = match (names.is_empty(), value) {
        (true, Some(value)) => format!("\\fI{}\\fR", escaped(value)),
        (true, None) => format!("\\fI{}\\fR", escaped(arg.get_id().as_str())),
        (false, Some(value)) => {
            format!(
                "\\fB{}\\fR \\fI{}\\fR",
                escaped(&names.join(", ")),
                escaped(value)
            )
        }
        (false, None) => format!("\\fB{}\\fR", escaped(&names.join(", "))),
    };
    let help = arg.get_long_help().or(arg.get_help());
    let mut text = format!(
        ".TP\n{named}\n{}\n",
        line(&help.map(ToString::to_string).unwrap_or_default())
    );
    if let Some(variable) = arg.get_env() {
        let variable = escaped(&variable.to_string_lossy());
        text.push_str(&format!("Also by the variable \\fB{variable}\\fR.\n"));
    }
    text
}

fn of_topic(topic: &Topic) -> Page {
    let section = if topic.name == "manifest" { 5 } else { 7 };
    let name = format!("flowctl-{}", topic.name);
    // A command of that name has a page of its own in section 1.
    let mut text = head(&name, section, topic.summary());
    text.push_str(".SH DESCRIPTION\n");
    let mut is_literal = false;
    for written in topic.text.lines().skip(1) {
        if written.starts_with("```") {
            is_literal = !is_literal;
            text.push_str(if is_literal { ".nf\n" } else { ".fi\n" });
        } else if is_literal {
            text.push_str(&literal(written));
            text.push('\n');
        } else if written.starts_with('|') {
            text.push_str(&row(written));
        } else if let Some(heading) = written.strip_prefix("## ") {
            text.push_str(&format!(".SH {}\n", escaped(&heading.to_uppercase())));
        } else if written.is_empty() {
            text.push_str(".PP\n");
        } else {
            text.push_str(&line(written));
            text.push('\n');
        }
    }
    Page {
        file: format!("{name}.{section}"),
        text,
    }
}

/// A row of a table: its first cell stands out, the others follow.
fn row(written: &str) -> String {
    let cells = written.trim_matches('|').replace("\\|", "\u{1}");
    let cells: Vec<String> = cells
        .split('|')
        .map(|cell| cell.trim().replace('\u{1}', "|"))
        .collect();
    let is_rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-'));
    let Some((first, rest)) = cells.split_first().filter(|_| !is_rule) else {
        return String::new();
    };
    let rest: Vec<&str> = rest
        .iter()
        .map(String::as_str)
        .filter(|cell| !cell.is_empty())
        .collect();
    format!(".TP\n{}\n{}\n", line(first), line(&rest.join("; ")))
}

/// A line of text, in which what stands in backticks is bold.
fn line(text: &str) -> String {
    let mut shown = String::new();
    for (number, part) in text.replace('\n', " ").split('`').enumerate() {
        match number % 2 {
            0 => shown.push_str(&escaped(&part.replace("**", ""))),
            _ => shown.push_str(&format!("\\fB{}\\fR", escaped(part))),
        }
    }
    guarded(&shown)
}

fn paragraphs(text: &str) -> String {
    let parts: Vec<String> = text.split("\n\n").map(line).collect();
    parts.join("\n.PP\n") + "\n"
}

/// Lines as they are.
fn literal(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| guarded(&escaped(line))).collect();
    lines.join("\n")
}

/// What roff would take for a request at the beginning of a line.
fn guarded(line: &str) -> String {
    if line.starts_with('.') || line.starts_with('\'') {
        format!("\\&{line}")
    } else {
        line.to_owned()
    }
}

/// `text` as roff shows it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_every_topic_has_a_page() {
        let pages = pages();
        let names: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        for name in [
            "flowctl.1",
            "flowctl-apply.1",
            "flowctl-registry.1",
            "flowctl-logs.1",
            "flowctl-logs.7",
            "flowctl-manifest.5",
            "flowctl-exit-codes.7",
        ] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("__")), "{names:?}");
        let page = |name: &str| &pages.iter().find(|page| page.file == name).unwrap().text;
        assert!(page("flowctl-apply.1").contains("\\fB\\-f, \\-\\-file\\fR"));
        assert!(page("flowctl-registry.1").contains("rotate\\-keys"));
        assert!(page("flowctl-manifest.5").contains("\\fBinherit_env\\fR"));
    }

    #[test]
    fn what_means_something_to_roff_is_shown_as_it_is() {
        assert_eq!(line("`a-b` \\ c"), "\\fBa\\-b\\fR \\e c");
        assert_eq!(literal(".hidden\n'x"), "\\&.hidden\n\\&'x");
        assert_eq!(row("|---|---|"), "");
        assert_eq!(row("| `a` | b \\| c |"), ".TP\n\\fBa\\fR\nb | c\n");
    }
}
