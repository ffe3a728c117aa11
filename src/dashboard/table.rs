//! The lines of the table: which, and in which order. Pure.

use std::cmp::Reverse;

use crate::model::{
    ComponentStatus, PhaseName, PipelineStatus, ReplicaKey, ReplicaStatus, Snapshot,
};
use crate::text::replica_name;

use super::state::{Place, Sort, Ui};

/// One line.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// The heading of a pipeline.
    Pipeline(&'a PipelineStatus),
    /// A replica.
    Replica(&'a PipelineStatus, &'a ComponentStatus, &'a ReplicaStatus),
    /// A component of which no replica is wanted.
    Empty(&'a PipelineStatus, &'a ComponentStatus),
}

impl Row<'_> {
    /// What is chosen with it.
    pub fn place(&self) -> Place {
        match self {
            Self::Pipeline(pipeline) => Place {
                pipeline: pipeline.key(),
                replica: None,
            },
            Self::Replica(pipeline, component, replica) => Place {
                pipeline: pipeline.key(),
                replica: Some(ReplicaKey {
                    component: component.id.clone(),
                    replica: replica.replica,
                }),
            },
            Self::Empty(pipeline, component) => Place {
                pipeline: pipeline.key(),
                replica: Some(ReplicaKey {
                    component: component.id.clone(),
                    replica: 0,
                }),
            },
        }
    }

    /// Whether it is what `place` chooses. Without the cost of its name.
    fn is(&self, place: &Place) -> bool {
        let (pipeline, component, number) = match self {
            Self::Pipeline(pipeline) => (*pipeline, None, 0),
            Self::Replica(pipeline, component, replica) => {
                (*pipeline, Some(&component.id), replica.replica)
            }
            Self::Empty(pipeline, component) => (*pipeline, Some(&component.id), 0),
        };
        pipeline.name == place.pipeline.name
            && pipeline.namespace == place.pipeline.namespace
            && component == place.component()
            && place
                .replica
                .as_ref()
                .is_none_or(|replica| replica.replica == number)
    }

    /// What stands in its first column.
    pub fn name(&self, sort: Sort) -> String {
        let (pipeline, id) = match self {
            Self::Pipeline(pipeline) => return pipeline.key().to_string(),
            Self::Replica(pipeline, component, replica) => {
                (pipeline, replica_name(component, replica))
            }
            Self::Empty(pipeline, component) => (pipeline, component.id.to_string()),
        };
        match sort {
            Sort::Data => format!("  {id}"),
            Sort::State | Sort::Restarts | Sort::Since | Sort::Name => {
                format!("{}/{id}", pipeline.key())
            }
        }
    }
}

/// All lines that `ui` wants to see.
pub fn rows<'a>(snapshot: &'a Snapshot, ui: &Ui) -> Vec<Row<'a>> {
    let words: Vec<String> = ui
        .filter
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let mut rows = Vec::new();
    for pipeline in &snapshot.pipelines {
        let heading = rows.len();
        for component in &pipeline.components {
            let all = component.replicas.iter();
            rows.extend(all.map(|replica| Row::Replica(pipeline, component, replica)));
            if component.replicas.is_empty() {
                rows.push(Row::Empty(pipeline, component));
            }
        }
        if !words.is_empty() {
            let mut kept = heading;
            for at in heading..rows.len() {
                if contains_all(&rows[at], &words) {
                    rows.swap(kept, at);
                    kept += 1;
                }
            }
            rows.truncate(kept);
        }
        let is_shown = ui.sort == Sort::Data && (words.is_empty() || rows.len() > heading);
        if is_shown {
            rows.insert(heading, Row::Pipeline(pipeline));
        }
    }
    match ui.sort {
        Sort::Data => {}
        Sort::State => rows.sort_by_key(|row| replica(row).map_or(u8::MAX, urgency)),
        Sort::Restarts => {
            rows.sort_by_key(|row| Reverse(replica(row).map_or(0, |replica| replica.restarts)));
        }
        Sort::Since => rows.sort_by_key(|row| Reverse(replica(row).map(|replica| replica.since))),
        Sort::Name => rows.sort_by_cached_key(|row| row.name(Sort::Name)),
    }
    rows
}

fn replica<'a>(row: &Row<'a>) -> Option<&'a ReplicaStatus> {
    match row {
        Row::Pipeline(_) | Row::Empty(..) => None,
        Row::Replica(_, _, replica) => Some(replica),
    }
}

/// How soon somebody should look, the soonest first.
fn urgency(replica: &ReplicaStatus) -> u8 {
    match replica.phase {
        PhaseName::Failed => 0,
        PhaseName::Crashloop => 1,
        PhaseName::Unhealthy => 2,
        PhaseName::Backoff => 3,
        PhaseName::Unknown => 4,
        PhaseName::Pending => 5,
        PhaseName::Starting => 6,
        PhaseName::Stopping => 7,
        PhaseName::Running if !replica.ready => 8,
        PhaseName::Stopped => 9,
        PhaseName::Running => 10,
        PhaseName::Completed => 11,
    }
}

fn contains_all(row: &Row<'_>, words: &[String]) -> bool {
    let mut text = row.name(Sort::Name);
    match row {
        Row::Pipeline(_) | Row::Empty(..) => {}
        Row::Replica(_, component, replica) => {
            text.push_str(&format!(
                " {} {} {} {}",
                component.role, component.driver, replica.phase, replica.why
            ));
        }
    }
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word))
}

/// Where the cursor is among `rows`.
pub fn position(rows: &[Row<'_>], ui: &Ui) -> Option<usize> {
    let last = rows.len().checked_sub(1)?;
    let chosen = ui.cursor.as_ref();
    let found = chosen.and_then(|place| rows.iter().position(|row| row.is(place)));
    Some(found.unwrap_or(ui.at).min(last))
}

/// Puts the cursor on a line that is there, and the window around it. A window has `height` rows.
pub fn fit(ui: &mut Ui, snapshot: &Snapshot, height: usize) {
    let rows = rows(snapshot, ui);
    let Some(at) = position(&rows, ui) else {
        (ui.cursor, ui.at, ui.top) = (None, 0, 0);
        return;
    };
    ui.at = at;
    ui.cursor = Some(rows[at].place());
    if at < ui.top {
        ui.top = at;
    } else if height > 0 && at >= ui.top + height {
        ui.top = at + 1 - height;
    }
    // A heading above the first line is better seen than not.
    if at > 0 && at == ui.top && matches!(rows[at - 1], Row::Pipeline(_)) && height > 1 {
        ui.top = at - 1;
    }
    ui.top = ui.top.min(rows.len().saturating_sub(height));
}

/// Moves the cursor by so many lines.
pub fn step(ui: &mut Ui, snapshot: &Snapshot, by: isize) {
    let rows = rows(snapshot, ui);
    let Some(at) = position(&rows, ui) else {
        return;
    };
    let to = at.saturating_add_signed(by).min(rows.len() - 1);
    ui.at = to;
    ui.cursor = Some(rows[to].place());
}
