//! What is known and how it is looked at. Plain data.

use std::sync::Arc;

pub use crate::api::Link;

use crate::api::Asked;
use crate::graph::Branch;
use crate::model::{ComponentId, PipelineKey, ReplicaKey, Snapshot};
use crate::text::{self, Tone};

use super::page::{EventPage, LogPage};

/// Whether a person may steer components from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Start, stop and restart, each after a question.
    Allowed,
    /// Only look.
    ReadOnly,
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct World {
    /// What runs, as it was told last.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Who tells it.
    pub link: Link,
    /// What is open beside the table.
    pub content: Content,
    /// Why that cannot be shown.
    pub trouble: Option<String>,
}

/// What is open beside the table.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing, or nothing yet.
    None,
    /// What components wrote.
    Logs(LogPage),
    /// Why a component is in its state, as `flowctl why` tells it.
    Why(Vec<String>),
    /// What happened.
    Events(EventPage),
    /// What reads from what.
    Graph(Vec<Branch>),
    /// What replicas use.
    Usage(Arc<Snapshot>),
}

/// A line of the table that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which pipeline.
    pub pipeline: PipelineKey,
    /// Which replica; `None` = the pipeline itself.
    pub replica: Option<ReplicaKey>,
}

impl Place {
    /// The component, where it is one's.
    pub fn component(&self) -> Option<&ComponentId> {
        self.replica.as_ref().map(|replica| &replica.component)
    }
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The table of all components.
    Table,
    /// What the component wrote; `None` = all of the pipeline, merged.
    Logs(PipelineKey, Option<ComponentId>),
    /// Why the component is in its state.
    Why(PipelineKey, ComponentId),
    /// What happened to all, to a pipeline, or to a component.
    Events(Option<(PipelineKey, Option<ComponentId>)>),
    /// What reads from what.
    Graph(PipelineKey),
    /// What replicas use.
    Top,
}

impl View {
    /// What its content is called.
    pub fn title(&self) -> String {
        let name = |pipeline: &PipelineKey, component: &Option<ComponentId>| match component {
            Some(component) => format!("{pipeline}/{component}"),
            None => pipeline.to_string(),
        };
        match self {
            Self::Table => String::new(),
            Self::Logs(pipeline, component) => format!("logs of {}", name(pipeline, component)),
            Self::Why(pipeline, component) => format!("why {pipeline}/{component}"),
            Self::Events(None) => "events".to_owned(),
            Self::Events(Some((pipeline, component))) => {
                format!("events of {}", name(pipeline, component))
            }
            Self::Graph(pipeline) => format!("graph of {pipeline}"),
            Self::Top => "top".to_owned(),
        }
    }
}

/// In which order the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Of the data, pipeline by pipeline.
    Data,
    /// What needs a look first.
    State,
    /// What was restarted most first.
    Restarts,
    /// What changed last first.
    Since,
    /// By name.
    Name,
}

impl Sort {
    /// All orders.
    pub const ALL: [Self; 5] = [
        Self::Data,
        Self::State,
        Self::Restarts,
        Self::Since,
        Self::Name,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::State => "state",
            Self::Restarts => "restarts",
            Self::Since => "since",
            Self::Name => "name",
        }
    }

    /// The one after it.
    pub fn next(self) -> Self {
        match self {
            Self::Data => Self::State,
            Self::State => Self::Restarts,
            Self::Restarts => Self::Since,
            Self::Since => Self::Name,
            Self::Name => Self::Data,
        }
    }
}

/// Which part of a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scroll {
    /// The end, also when that moves.
    End,
    /// From the line of this number on.
    From(u64),
}

/// Whether long lines go on in the next row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// They do.
    On,
    /// They are cut.
    Off,
}

/// What a typed line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To choose lines of the table.
    Filter,
    /// To find lines of a page.
    Search,
    /// To say what to do.
    Command,
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// What for.
    pub purpose: Purpose,
    /// What stands there.
    pub text: String,
    /// What stood there before, which Esc brings back.
    pub before: String,
}

/// Something that was asked for, and needs a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which pipeline.
    pub pipeline: PipelineKey,
    /// Which component.
    pub component: ComponentId,
    /// What is to be done.
    pub asked: Asked,
}

/// What is told at the foot until the next key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The words.
    pub text: String,
    /// How they are meant.
    pub tone: Tone,
}

/// What lies over the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// Nothing.
    Hidden,
    /// What the keys do.
    Shown,
}

/// How it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ui {
    /// What is looked at.
    pub view: View,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The chosen line of the table.
    pub cursor: Option<Place>,
    /// Where that was when it was last seen, so that its neighbour is chosen when it goes.
    pub at: usize,
    /// The first row of the table that is shown.
    pub top: usize,
    /// What lines of the table have to contain: words, all of them.
    pub filter: String,
    /// In which order the table is.
    pub sort: Sort,
    /// Which part of a page is shown.
    pub scroll: Scroll,
    /// Whether long lines of a page go on in the next row.
    pub wrap: Wrap,
    /// What is marked in a page.
    pub search: String,
    /// What is being typed.
    pub typed: Option<Typed>,
    /// What waits for a yes or no.
    pub question: Option<Question>,
    /// What is told at the foot.
    pub note: Option<Note>,
    /// What lies over the view.
    pub help: Help,
    /// Whether a person may steer.
    pub control: Control,
    /// Whether there are colours.
    pub style: text::Style,
}

impl Ui {
    /// The table, with nothing chosen yet.
    pub fn new(control: Control, style: text::Style, size: (u16, u16)) -> Self {
        Self {
            view: View::Table,
            size,
            cursor: None,
            at: 0,
            top: 0,
            filter: String::new(),
            sort: Sort::Data,
            scroll: Scroll::End,
            wrap: Wrap::Off,
            search: String::new(),
            typed: None,
            question: None,
            note: None,
            help: Help::Hidden,
            control,
            style,
        }
    }

    /// Tells `text` at the foot.
    pub fn tell(&mut self, text: impl Into<String>, tone: Tone) {
        self.note = Some(Note {
            text: text.into(),
            tone,
        });
    }
}

/// What a key brings about beyond another look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End.
    Quit,
    /// Give the terminal back and stop, as Ctrl+Z does.
    Suspend,
    /// Draw all of it again.
    Redraw,
    /// Ask the daemon.
    Steer(Question),
}
