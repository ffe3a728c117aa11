//! From a batch to changes of rows: what is where, and which numbers are used.
//!
//! The ledger always matches the rows after the changes it answered. It is read from them at open.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::error::StoreError;
use super::history::{self, History};
use super::rows::{self, Change, Fact, Kind, Parts};
use crate::model::{ComponentId, ComponentSpec, PipelineKey, PipelineRecord, PipelineSpec};

/// The most components in one section.
const SECTION_MAX: usize = 64;

/// A pipeline's row: everything but its components, and the sections that hold those in order.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) record: PipelineRecord,
    pub(super) sections: Vec<u64>,
}

/// A section of a pipeline, as it is on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) number: u64,
    /// How many components it holds.
    pub(super) count: usize,
}

/// A pipeline, as it is on the disk.
pub(super) struct Shelved {
    /// The row's value.
    pub(super) head: Vec<u8>,
    pub(super) spec: Arc<PipelineSpec>,
    pub(super) sections: Vec<Section>,
}

/// What is where.
pub(super) struct Ledger {
    pub(super) pipelines: BTreeMap<PipelineKey, Shelved>,
    /// Which values are in parts, by key.
    pub(super) parts: HashMap<Vec<u8>, Parts>,
    /// The first section number that was never used.
    pub(super) next_section: u64,
    /// The first part number that was never used.
    pub(super) next_part: u64,
    /// How many pipelines were ever recorded, see [`super::tally`].
    pub(super) created: u64,
    pub(super) history: History,
}

/// A pipeline's new form, not yet entered.
struct Draft {
    shelved: Shelved,
    /// Sections to write.
    fresh: Vec<(u64, Vec<u8>)>,
}

impl Ledger {
    pub(super) fn new(history: History) -> Self {
        Self {
            pipelines: BTreeMap::new(),
            parts: HashMap::new(),
            next_section: 0,
            next_part: 0,
            created: 0,
            history,
        }
    }

    /// Enters `batch` and answers the changes that record it, in an order that may be cut anywhere:
    /// what is new, then what points at it, then the removal of what nothing points at any more.
    ///
    /// # Errors
    /// When a value has no stored form. Nothing of the batch is entered then.
    pub(super) fn enter(&mut self, batch: Batch) -> Result<Vec<Change>, StoreError> {
        let Batch {
            pipelines,
            records,
            settings,
            events,
            ends_rebuilding,
        } = batch;
        // All that can fail comes first, so that a refused batch leaves no trace.
        let mut values = Vec::new();
        for ((pipeline, replica), record) in records {
            let value = record.map(|record| {
                encoded(&record, || format!("the record of {replica} in {pipeline}"))
            });
            values.push((rows::record_key(&pipeline, &replica), value.transpose()?));
        }
        let events = history::encode(&events)?;
        let mut next_section = self.next_section;
        let mut drafts = Vec::new();
        for (pipeline, record) in pipelines {
            let draft = record.map(|record| self.draft(&pipeline, record, &mut next_section));
            drafts.push((pipeline, draft.transpose()?));
        }
        for (name, value) in settings {
            values.push((rows::setting_key(&name), value.map(String::into_bytes)));
        }

        self.next_section = next_section;
        let mut changes = Vec::new();
        let mut outdated = Vec::new();
        let is_new = |(pipeline, draft): &&(PipelineKey, Option<Draft>)| {
            draft.is_some() && !self.pipelines.contains_key(pipeline)
        };
        let new = drafts.iter().filter(is_new).count() as u64;
        self.created += new;
        for (pipeline, draft) in drafts {
            self.shelve(pipeline, draft, &mut changes, &mut outdated);
        }
        for (key, value) in values {
            self.write(key, value.as_deref(), &mut changes, &mut outdated);
        }
        self.history.append(events, &mut changes);
        // After the pipelines that it counts, since a large batch may be cut anywhere.
        if new > 0 || ends_rebuilding {
            let key = Fact::Created.key();
            let row = rows::seal(&key, self.created.to_string().as_bytes());
            changes.push((key, Some(row)));
        }
        if ends_rebuilding {
            changes.push((Fact::Rebuilding.key(), None));
        }
        changes.extend(outdated);
        Ok(changes)
    }

    /// The form in which `record` is kept: sections that did not change stay where they are.
    fn draft(
        &self,
        pipeline: &PipelineKey,
        record: PipelineRecord,
        next_section: &mut u64,
    ) -> Result<Draft, StoreError> {
        let spec = Arc::clone(&record.spec);
        let old = self.pipelines.get(pipeline);
        let mut sections = Vec::new();
        let mut fresh = Vec::new();
        match old {
            Some(old)
                if Arc::ptr_eq(&old.spec, &spec) || old.spec.components == spec.components =>
            {
                sections.clone_from(&old.sections);
            }
            Some(_) | None => {
                let shelved = old.map(Shelved::by_first_component).unwrap_or_default();
                for group in groups(&spec) {
                    if let Some((section, same)) = shelved.get(&group[0].id)
                        && *same == group
                    {
                        sections.push(*section);
                        continue;
                    }
                    let what = || format!("the components of pipeline {pipeline}");
                    let number = *next_section;
                    *next_section += 1;
                    fresh.push((number, encoded(&group, what)?));
                    sections.push(Section {
                        number,
                        count: group.len(),
                    });
                }
            }
        }
        let head = Head {
            record: PipelineRecord {
                spec: Arc::new(PipelineSpec {
                    components: BTreeMap::new(),
                    key: spec.key.clone(),
                    description: spec.description.clone(),
                    labels: spec.labels.clone(),
                    annotations: spec.annotations.clone(),
                    network: spec.network.clone(),
                    notify: spec.notify.clone(),
                }),
                ..record
            },
            sections: sections.iter().map(|section| section.number).collect(),
        };
        let head = encoded(&head, || format!("pipeline {pipeline}"))?;
        Ok(Draft {
            shelved: Shelved {
                head,
                spec,
                sections,
            },
            fresh,
        })
    }

    fn shelve(
        &mut self,
        pipeline: PipelineKey,
        draft: Option<Draft>,
        changes: &mut Vec<Change>,
        outdated: &mut Vec<Change>,
    ) {
        let key = rows::pipeline_key(&pipeline);
        let old = self.pipelines.remove(&pipeline);
        let kept: Vec<u64> = draft.iter().flat_map(Draft::sections).collect();
        match draft {
            Some(draft) => {
                for (number, value) in draft.fresh {
                    let key = rows::number_key(Kind::Section, number);
                    self.write(key, Some(&value), changes, outdated);
                }
                if old
                    .as_ref()
                    .is_none_or(|old| old.head != draft.shelved.head)
                {
                    self.write(key, Some(&draft.shelved.head), changes, outdated);
                }
                self.pipelines.insert(pipeline, draft.shelved);
            }
            None => self.write(key, None, changes, outdated),
        }
        let old = old.into_iter().flat_map(|old| old.sections);
        for section in old.filter(|section| !kept.contains(&section.number)) {
            let key = rows::number_key(Kind::Section, section.number);
            let mut removed = Vec::new();
            self.write(key, None, &mut removed, outdated);
            outdated.extend(removed);
        }
    }

    /// Writes or deletes one value; the parts that it had before are outdated.
    fn write(
        &mut self,
        key: Vec<u8>,
        value: Option<&[u8]>,
        changes: &mut Vec<Change>,
        outdated: &mut Vec<Change>,
    ) {
        if let Some(old) = self.parts.remove(&key) {
            outdated.extend(
                old.numbers()
                    .map(|number| (rows::number_key(Kind::Part, number), None)),
            );
        }
        let Some(value) = value else {
            changes.push((key, None));
            return;
        };
        if let Some(parts) = rows::write_value(key.clone(), value, self.next_part, changes) {
            self.next_part = parts.numbers().end;
            self.parts.insert(key, parts);
        }
    }
}

impl Draft {
    fn sections(&self) -> impl Iterator<Item = u64> {
        self.shelved.sections.iter().map(|section| section.number)
    }
}

impl Shelved {
    /// Its sections and what they hold, by the first component of each.
    fn by_first_component(&self) -> HashMap<&ComponentId, (Section, Vec<&ComponentSpec>)> {
        let mut components = self.spec.components.values();
        self.sections
            .iter()
            .filter_map(|&section| {
                let group: Vec<_> = components.by_ref().take(section.count).collect();
                Some((&group.first()?.id, (section, group)))
            })
            .collect()
    }
}

/// The components of `spec` in the groups that are kept together. A group ends after a component
/// whose name says so, so that adding or removing one changes one group or two and not all behind
/// it.
fn groups(spec: &PipelineSpec) -> Vec<Vec<&ComponentSpec>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    for component in spec.components.values() {
        group.push(component);
        let ends = crc32fast::hash(component.id.as_str().as_bytes()).is_multiple_of(16);
        if ends || group.len() == SECTION_MAX {
            groups.push(std::mem::take(&mut group));
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

fn encoded(value: &impl Serialize, what: impl Fn() -> String) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode {
        what: what(),
        source: Arc::new(source),
    })
}
