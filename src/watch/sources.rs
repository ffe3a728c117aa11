//! One watched source: what was last said about each of its files, and what is to be said now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::manifest::{Fingerprint, Problems, Taken};
use crate::model::PipelineKey;
use crate::ownership::End;

use super::debounce::Debounce;
use super::read::{self, is_manifest};
use super::route::Route;
use super::{Source, Update};

/// A source under watch.
#[derive(Debug)]
pub(super) struct Watched {
    pub source: Source,
    pub route: Route,
    pub debounce: Debounce,
    files: BTreeMap<PathBuf, Known>,
}

/// What was last said about a file.
#[derive(Debug, Default)]
struct Known {
    said: Said,
    /// Its pipelines when it was last good.
    keys: Vec<PipelineKey>,
}

/// Stands for what was last reported about a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    /// This text, which was good.
    Good(Fingerprint),
    /// This problem. The same text may be good later: another file of its directory may be what
    /// is wrong with it.
    Problem(Fingerprint),
}

/// Whether a problem may be reported that was not there at the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The file may be half-way through being replaced: wait for a second look.
    FirstLook,
    /// It has been left alone since.
    Settled,
}

/// What a look at a source gave.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub updates: Vec<Update>,
    /// A problem was seen that is reported only if it stays.
    pub suspicious: bool,
}

impl Watched {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            route: Route::default(),
            debounce: Debounce::default(),
            files: BTreeMap::new(),
        }
    }

    /// Says nothing of files that still say what whoever adds this source has taken over already.
    ///
    /// Where `before`, the same source until now, has said another thing of a file since, that may
    /// still be on its way to whoever takes it: it is said again, so that the last word is the file's.
    pub(super) fn know(&mut self, taken: Vec<Taken>, before: Option<&Self>) {
        for Taken {
            file,
            text,
            pipelines,
        } in taken
        {
            let said = Said::Good(text);
            let last = before.and_then(|before| before.files.get(&file));
            if last.is_none_or(|known| known.said == said) {
                let keys = pipelines;
                self.files.insert(file, Known { said, keys });
            }
        }
    }

    /// Where changes to this source can happen now.
    pub(super) fn follow(&self) -> Route {
        let mut route = Route::follow(&self.source.path);
        let Some(end) = route.end.clone().filter(|end| end.is_dir()) else {
            return route;
        };
        route.dirs.insert(end);
        // What cannot be listed is reported when it is read.
        for file in read::manifests(&self.source.path).unwrap_or_default() {
            route.merge(Route::follow(&file));
        }
        route
    }

    /// Whether a change at `path`, free of links but for its last name, can be a change of this.
    pub(super) fn is_touched_by(&self, path: &Path) -> bool {
        let inside = || {
            is_manifest(path)
                && path
                    .parent()
                    .is_some_and(|dir| self.route.end.as_deref() == Some(dir))
        };
        self.route.names.contains(path) || self.route.dirs.contains(path) || inside()
    }

    /// Reads every file and says what changed.
    pub(super) fn look(&mut self, patience: Patience) -> Look {
        let mut texts: BTreeMap<PathBuf, Result<Vec<u8>, Problems>> =
            read::texts(&self.source.path).into_iter().collect();
        // Of a folder, whoever could add a file to it counts too.
        let whole = if self.source.path.is_dir() {
            read::strange(&self.source.path, End::WithContents)
        } else {
            None
        };
        for (file, text) in &mut texts {
            let strange = || read::strange(file, End::Itself);
            if let Some(problem) = whole.clone().or_else(strange) {
                *text = Err(problem);
            }
        }
        // A file that left a directory is a problem, never "delete everything".
        for file in self.files.keys().filter(|file| **file != self.source.path) {
            texts.entry(file.clone()).or_insert_with(|| Err(gone(file)));
        }
        // What was wrong with the directory as a whole is forgotten once it has files again.
        if texts.keys().any(|file| *file != self.source.path) {
            self.files.remove(&self.source.path);
        }
        let mut changed: Vec<(Said, Update)> = Vec::new();
        let mut standing: BTreeMap<PipelineKey, PathBuf> = BTreeMap::new();
        for (file, text) in texts {
            let good = text
                .as_ref()
                .map_or(Said::Nothing, |text| Said::Good(Fingerprint::of(text)));
            let known = self.files.get(&file);
            let stands = || {
                let keys = known.map(|known| known.keys.as_slice()).unwrap_or_default();
                keys.iter().map(|key| (key.clone(), file.clone()))
            };
            if good != Said::Nothing && known.is_some_and(|known| known.said == good) {
                standing.extend(stands());
                continue;
            }
            let outcome = text.and_then(|text| read::parse(&file, &text, &self.source.given));
            // While a file is being replaced, nobody else gets its pipelines.
            if outcome.is_err() && patience == Patience::FirstLook {
                standing.extend(stands());
            }
            changed.push((good, Update { file, outcome }));
        }
        let (good, mut updates): (Vec<Said>, Vec<Update>) = changed.into_iter().unzip();
        read::refuse_twins(&mut updates, &standing);
        let mut look = Look::default();
        for (good, update) in good.into_iter().zip(updates) {
            self.take(good, update, patience, &mut look);
        }
        look
    }

    fn take(&mut self, good: Said, update: Update, patience: Patience, look: &mut Look) {
        let known = self.files.entry(update.file.clone()).or_default();
        match &update.outcome {
            Ok(parsed) => {
                known.said = good;
                known.keys = parsed
                    .pipelines
                    .iter()
                    .map(|spec| spec.key.clone())
                    .collect();
            }
            Err(problems) => {
                let said = Said::Problem(Fingerprint::of(problems.to_string().as_bytes()));
                if known.said == said {
                    return;
                }
                if patience == Patience::FirstLook {
                    look.suspicious = true;
                    return;
                }
                known.said = said;
                known.keys.clear();
            }
        }
        look.updates.push(update);
    }
}

fn gone(file: &Path) -> Problems {
    Problems::whole_file(
        &file.display().to_string(),
        "the file is gone",
        Some("put it back, or end its pipelines with `flowctl delete`".to_owned()),
    )
}
