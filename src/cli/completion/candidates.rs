//! What a word on the command line may become. Pure, but for the names that are asked for.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command};

/// What runs, and what can be read about.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Names of namespaces.
    pub namespaces: BTreeSet<String>,
    /// Names of pipelines.
    pub pipelines: BTreeSet<String>,
    /// Components, each behind its pipeline.
    pub components: BTreeSet<(String, String)>,
    /// Help topics.
    pub topics: Vec<String>,
}

/// What a word may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name of a file, which shells know best.
    Files,
    /// One of these, each with what it is.
    Words(BTreeMap<String, String>),
}

/// What the last of `words`, which follow the program's name, may become.
pub fn answer(root: &Command, words: &[String], names: impl FnOnce() -> Names) -> Answer {
    let words = joined(words);
    let Some((last, before)) = words.split_last() else {
        return Answer::Words(BTreeMap::new());
    };
    let place = Place::after(root, before);
    if let Some(arg) = place.value_of {
        return values(arg, last, "", names);
    }
    if !place.only_positional && last.starts_with('-') {
        return match last.split_once('=') {
            Some((option, value)) => match place.option(root, option) {
                Some(arg) => values(arg, value, &format!("{option}="), names),
                None => Answer::Words(BTreeMap::new()),
            },
            None => Answer::Words(place.options(root, last)),
        };
    }
    let mut words = BTreeMap::new();
    if place.positionals == 0 {
        for verb in place
            .command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
        {
            add(&mut words, last, verb.get_name(), verb.get_about());
        }
    }
    let Some(arg) = place.positional() else {
        return Answer::Words(words);
    };
    match values(arg, last, "", names) {
        Answer::Files if words.is_empty() => Answer::Files,
        Answer::Files => Answer::Words(words),
        Answer::Words(more) => {
            words.extend(more);
            Answer::Words(words)
        }
    }
}

/// Words as they were typed: bash takes `--option=value` apart.
fn joined(words: &[String]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let is_split = word == "=" && joined.last().is_some_and(|before| before.starts_with("--"));
        if is_split {
            // The value stands for itself from here on: its option has been told.
            joined.push(words.next().cloned().unwrap_or_default());
        } else {
            joined.push(word.clone());
        }
    }
    joined
}

/// Where on the command line a word stands.
struct Place<'a> {
    command: &'a Command,
    /// The option whose value it is.
    value_of: Option<&'a Arg>,
    /// So many words before it are no options.
    positionals: usize,
    /// Behind a `--`.
    only_positional: bool,
}

impl<'a> Place<'a> {
    fn after(root: &'a Command, words: &[String]) -> Self {
        let mut place = Self {
            command: root,
            value_of: None,
            positionals: 0,
            only_positional: false,
        };
        for word in words {
            if place.value_of.take().is_some() {
                continue;
            }
            if place.only_positional {
                place.positionals += 1;
            } else if word == "--" {
                place.only_positional = true;
            } else if word.len() > 1 && word.starts_with('-') {
                let takes = |arg: &&Arg| arg.get_action().takes_values();
                let is_whole = !word.contains('=');
                let option = place.option(root, word).filter(takes);
                place.value_of = option.filter(|_| is_whole);
            } else if place.positionals == 0
                && let Some(verb) = place.command.find_subcommand(word)
            {
                place.command = verb;
            } else {
                place.positionals += 1;
            }
        }
        place
    }

    /// The option that is called so: `--long`, `-s`.
    fn option(&self, root: &'a Command, word: &str) -> Option<&'a Arg> {
        let of = |command: &'a Command| {
            command
                .get_arguments()
                .find(|arg| match word.strip_prefix("--") {
                    Some(long) => {
                        let also = arg.get_all_aliases().unwrap_or_default();
                        arg.get_long() == Some(long) || also.contains(&long)
                    }
                    None => {
                        let short = word.strip_prefix('-').and_then(|rest| rest.chars().next());
                        short.is_some() && word.chars().count() == 2 && arg.get_short() == short
                    }
                })
        };
        of(self.command).or_else(|| of(root).filter(|arg| arg.is_global_set()))
    }

    fn options(&self, root: &'a Command, begun: &str) -> BTreeMap<String, String> {
        let own = self.command.get_arguments();
        let global = root.get_arguments().filter(|arg| arg.is_global_set());
        let mut words = BTreeMap::new();
        for arg in own.chain(global).filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                add(&mut words, begun, &format!("--{long}"), arg.get_help());
            }
        }
        words
    }

    fn positional(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let many = |arg: &&&Arg| {
            arg.get_num_args()
                .is_some_and(|count| count.max_values() > 1)
        };
        let last = all.last().filter(many);
        all.get(self.positionals).or(last).copied()
    }
}

/// What a value of `arg` may become, each behind `prefix`.
fn values(arg: &Arg, begun: &str, prefix: &str, names: impl FnOnce() -> Names) -> Answer {
    let mut words = BTreeMap::new();
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        for value in possible.iter().filter(|value| !value.is_hide_set()) {
            add(&mut words, begun, value.get_name(), value.get_help());
        }
        return behind(prefix, words);
    }
    let wanted = arg.get_value_names().and_then(<[_]>::first);
    let wanted = wanted.map(|name| name.as_str()).unwrap_or_default();
    if ["FILE", "DIR", "FOLDER", "COMMAND"]
        .iter()
        .any(|word| wanted.starts_with(word))
        && wanted != "COMMAND|TOPIC"
    {
        return Answer::Files;
    }
    let is_namespace = arg.get_id() == "namespace";
    let names = if wanted.contains("COMPONENT")
        || wanted.contains("PIPELINE")
        || wanted.contains("TOPIC")
        || wanted == "NAME"
        || is_namespace
    {
        names()
    } else {
        return Answer::Words(words);
    };
    if is_namespace {
        for name in &names.namespaces {
            put(&mut words, begun, name, "namespace");
        }
        return behind(prefix, words);
    }
    if wanted.contains("TOPIC") {
        for name in &names.topics {
            put(&mut words, begun, name, "topic");
        }
        return behind(prefix, words);
    }
    if wanted == "NAME" || wanted == "PIPELINE" {
        for name in &names.pipelines {
            put(&mut words, begun, name, "pipeline");
        }
    }
    if wanted != "PIPELINE" {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, id) in &names.components {
            *times.entry(id).or_default() += 1;
        }
        for (pipeline, id) in &names.components {
            let about = format!("component of {pipeline}");
            // One that is alone with its name needs no more, until somebody begins with more.
            if begun.contains('/') || times.get(id.as_str()).is_some_and(|times| *times > 1) {
                put(&mut words, begun, &format!("{pipeline}/{id}"), &about);
            } else {
                put(&mut words, begun, id, &about);
                let whole = format!("{pipeline}/{id}");
                if !begun.is_empty() && !id.starts_with(begun) {
                    put(&mut words, begun, &whole, &about);
                }
            }
        }
    }
    behind(prefix, words)
}

fn behind(prefix: &str, words: BTreeMap<String, String>) -> Answer {
    let words = words.into_iter();
    Answer::Words(
        words
            .map(|(word, about)| (format!("{prefix}{word}"), about))
            .collect(),
    )
}

fn add(
    words: &mut BTreeMap<String, String>,
    begun: &str,
    word: &str,
    about: Option<&clap::builder::StyledStr>,
) {
    let about = about.map(ToString::to_string).unwrap_or_default();
    put(words, begun, word, about.lines().next().unwrap_or_default());
}

fn put(words: &mut BTreeMap<String, String>, begun: &str, word: &str, about: &str) {
    if word.starts_with(begun) {
        words.insert(word.to_owned(), about.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::Cli;
    use super::*;
    use clap::CommandFactory;

    fn names() -> Names {
        let component = |pipeline: &str, id: &str| (pipeline.to_owned(), id.to_owned());
        Names {
            namespaces: BTreeSet::from(["default".to_owned()]),
            pipelines: BTreeSet::from(["ttp".to_owned(), "web".to_owned()]),
            components: BTreeSet::from([
                component("ttp", "source"),
                component("ttp", "sink"),
                component("web", "sink"),
            ]),
            topics: vec!["exit-codes".to_owned()],
        }
    }

    /// What the last word of a line may become; `:files` alone = a file.
    fn words(line: &str) -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        let typed: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match answer(&command, &typed, names) {
            Answer::Files => vec![":files".to_owned()],
            Answer::Words(words) => words.into_keys().collect(),
        }
    }

    #[test]
    fn a_word_becomes_what_may_stand_there() {
        for (line, wanted) in [
            ("expl", &["explain"][..]),
            ("components rot", &["rotate-keys"]),
            ("why so", &["source"]),
            ("why ttp/s", &["ttp/sink", "ttp/source"]),
            ("why sin", &[]),
            ("why tt", &["ttp/sink", "ttp/source"]),
            ("why source ", &[]),
            ("restart source we", &["web", "web/sink"]),
            ("delete ", &["ttp", "web"]),
            ("wait so", &["source"]),
            ("status --ch", &["--check"]),
            ("status -o w", &["wide"]),
            ("status --output=w", &["--output=wide"]),
            ("status --output = w", &["wide"]),
            ("--color al", &["always"]),
            ("-n de", &["default"]),
            ("apply -f ", &[":files"]),
            ("apply ", &[":files"]),
            ("validate a.yaml ", &[":files"]),
            ("help exit", &["exit-codes"]),
            ("exec source -- l", &[":files"]),
            ("logs --level w", &["warn"]),
            ("logs -g x --exclude so", &["source"]),
            ("no-such-verb ", &[]),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
    }

    #[test]
    fn hidden_verbs_and_options_are_offered_to_nobody() {
        assert!(!words("").iter().any(|word| word.starts_with('_')));
        assert!(!words("daemon --").iter().any(|word| word == "--detached"));
    }
}
