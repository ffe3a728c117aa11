//! What can be typed behind `:`. Pure, but for what it changes in the [`Ui`].

use crate::api::Asked;
use crate::model::{ComponentId, PipelineKey, Snapshot};
use crate::text::Tone;

use super::keys::{ask, look_at};
use super::state::{Effect, Help, Sort, Ui, View, World, Wrap};

/// A word that can be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// What a component wrote.
    Logs,
    /// Why it is in its state.
    Why,
    /// What happened.
    Events,
    /// What reads from what.
    Graph,
    /// What replicas use.
    Top,
    /// The table.
    Status,
    /// Start a component.
    Start,
    /// Stop it.
    Stop,
    /// Restart it.
    Restart,
    /// Choose lines.
    Filter,
    /// Order them.
    Sort,
    /// Wrap long lines, or cut them.
    Wrap,
    /// What the keys do.
    Help,
    /// End.
    Quit,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Logs,
        Self::Why,
        Self::Events,
        Self::Graph,
        Self::Top,
        Self::Status,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Filter,
        Self::Sort,
        Self::Wrap,
        Self::Help,
        Self::Quit,
    ];

    /// How it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Why => "why",
            Self::Events => "events",
            Self::Graph => "graph",
            Self::Top => "top",
            Self::Status => "status",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Filter => "filter",
            Self::Sort => "sort",
            Self::Wrap => "wrap",
            Self::Help => "help",
            Self::Quit => "quit",
        }
    }

    /// What it does.
    pub fn about(self) -> &'static str {
        match self {
            Self::Logs => "[NAME]  what a component or pipeline wrote",
            Self::Why => "[COMPONENT]  why it is in its state",
            Self::Events => "[NAME]  what happened",
            Self::Graph => "[PIPELINE]  what reads from what",
            Self::Top => "what replicas use",
            Self::Status => "the table",
            Self::Start => "[COMPONENT]  start it",
            Self::Stop => "[COMPONENT]  stop it",
            Self::Restart => "[COMPONENT]  replace its instances",
            Self::Filter => "WORDS  only lines that contain them",
            Self::Sort => "data|state|restarts|since|name",
            Self::Wrap => "wrap long lines, or cut them",
            Self::Help => "what the keys do",
            Self::Quit => "end",
        }
    }

    fn takes_name(self) -> bool {
        match self {
            Self::Logs
            | Self::Why
            | Self::Events
            | Self::Graph
            | Self::Start
            | Self::Stop
            | Self::Restart => true,
            Self::Top
            | Self::Status
            | Self::Filter
            | Self::Sort
            | Self::Wrap
            | Self::Help
            | Self::Quit => false,
        }
    }
}

/// The commands that may be meant by what was typed so far.
pub fn candidates(typed: &str) -> Vec<Command> {
    let word = typed.split_whitespace().next().unwrap_or_default();
    let is_whole = typed.contains(char::is_whitespace);
    let all = Command::ALL.into_iter();
    all.filter(|command| {
        if is_whole {
            command.word() == word
        } else {
            command.word().starts_with(word)
        }
    })
    .collect()
}

/// What was typed with what follows from it, as Tab does.
pub fn completed(typed: &str, snapshot: Option<&Snapshot>) -> Option<String> {
    let Some((word, rest)) = typed.split_once(' ') else {
        let candidates = candidates(typed);
        return Some(format!("{} ", candidates.first()?.word()));
    };
    let command = candidates(typed).first().copied()?;
    let names = if command == Command::Sort {
        Sort::ALL.map(|sort| sort.word().to_owned()).to_vec()
    } else if command.takes_name() {
        names(snapshot?)
    } else {
        return None;
    };
    let rest = rest.trim_start();
    let mut meant = names.iter().filter(|name| name.starts_with(rest));
    let first = meant.next()?;
    let common = meant.fold(first.as_str(), |common, name| shared(common, name));
    Some(format!("{word} {common}"))
}

/// What two texts begin with alike.
fn shared<'a>(one: &'a str, other: &str) -> &'a str {
    let pairs = one.char_indices().zip(other.chars());
    let end = pairs
        .take_while(|((_, a), b)| a == b)
        .map(|((at, a), _)| at + a.len_utf8())
        .last();
    &one[..end.unwrap_or(0)]
}

/// Every name that can be typed.
fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names = Vec::new();
    for pipeline in &snapshot.pipelines {
        let key = pipeline.key();
        names.push(key.to_string());
        let ids = pipeline.components.iter().map(|component| &component.id);
        names.extend(ids.map(|id| format!("{key}/{id}")));
    }
    names
}

/// A pipeline, or a component of it.
type Named = (PipelineKey, Option<ComponentId>);

/// What a name means: a pipeline, `PIPELINE/COMPONENT`, or a component alone.
fn named(snapshot: &Snapshot, name: &str) -> Result<Named, String> {
    let mut found: Vec<Named> = Vec::new();
    for pipeline in &snapshot.pipelines {
        let key = pipeline.key();
        if key.to_string() == name {
            return Ok((key, None));
        }
        for component in &pipeline.components {
            if component.id.as_str() == name || format!("{key}/{}", component.id) == name {
                found.push((key.clone(), Some(component.id.clone())));
            }
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!("there is no pipeline or component `{name}`")),
        count => Err(format!(
            "{count} pipelines have a component `{name}`; say PIPELINE/{name}"
        )),
    }
}

/// Does what was typed.
pub fn carry_out(ui: &mut Ui, world: &World, typed: &str) -> Option<Effect> {
    let (word, rest) = typed.trim().split_once(' ').unwrap_or((typed.trim(), ""));
    let rest = rest.trim();
    let commands = candidates(word);
    let Some(command) = commands.first().copied().filter(|_| !word.is_empty()) else {
        if !word.is_empty() {
            ui.tell(
                format!("there is no command `{word}`; ? lists the keys"),
                Tone::Bad,
            );
        }
        return None;
    };
    let target = if command.takes_name() && !rest.is_empty() {
        let Some(snapshot) = &world.snapshot else {
            ui.tell("nothing is known yet", Tone::Bad);
            return None;
        };
        match named(snapshot, rest) {
            Ok(named) => Some(named),
            Err(why) => {
                ui.tell(why, Tone::Bad);
                return None;
            }
        }
    } else {
        super::keys::target(ui)
    };
    match command {
        Command::Quit => return Some(Effect::Quit),
        Command::Help => ui.help = Help::Shown,
        Command::Status => look_at(ui, View::Table),
        Command::Top => look_at(ui, View::Top),
        Command::Filter => {
            rest.clone_into(&mut ui.filter);
            look_at(ui, View::Table);
        }
        Command::Sort => match Sort::ALL.into_iter().find(|sort| sort.word() == rest) {
            Some(sort) => {
                ui.sort = sort;
                look_at(ui, View::Table);
            }
            None => ui.tell("sort by data, state, restarts, since or name", Tone::Bad),
        },
        Command::Wrap => toggle_wrap(ui),
        Command::Events if rest.is_empty() => look_at(ui, View::Events(None)),
        Command::Logs
        | Command::Why
        | Command::Events
        | Command::Graph
        | Command::Start
        | Command::Stop
        | Command::Restart => match (command, target) {
            (_, None) => ui.tell(
                format!("{} of what? type its name", command.word()),
                Tone::Bad,
            ),
            (Command::Logs, Some((pipeline, component))) => {
                look_at(ui, View::Logs(pipeline, component));
            }
            (Command::Events, named) => look_at(ui, View::Events(named)),
            (Command::Graph, Some((pipeline, _))) => look_at(ui, View::Graph(pipeline)),
            (Command::Why, Some((pipeline, Some(component)))) => {
                look_at(ui, View::Why(pipeline, component));
            }
            (Command::Start, target) => ask(ui, world, target, Asked::Start),
            (Command::Stop, target) => ask(ui, world, target, Asked::Stop),
            (Command::Restart, target) => ask(ui, world, target, Asked::Restart),
            (_, Some((pipeline, None))) => ui.tell(
                format!("{pipeline} is a pipeline; choose a component"),
                Tone::Bad,
            ),
            (_, Some(_)) => {}
        },
    }
    None
}

/// Wraps long lines, or cuts them.
pub fn toggle_wrap(ui: &mut Ui) {
    ui.wrap = match ui.wrap {
        Wrap::On => Wrap::Off,
        Wrap::Off => Wrap::On,
    };
    let word = match ui.wrap {
        Wrap::On => "long lines go on in the next row",
        Wrap::Off => "long lines are cut",
    };
    ui.tell(word, Tone::Dim);
}
