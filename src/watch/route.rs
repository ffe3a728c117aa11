//! The way from the root to a file, and where on it a change can happen.
//!
//! A path may lead through symbolic links, and each of them may be replaced: Kubernetes updates a
//! mounted ConfigMap by renaming one link (`..data`) over another. So the directory of every link
//! is watched, beside that of the file.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::model::path::names;

/// The kernel's limit on links in one path.
const MAX_LINKS: usize = 40;

/// What has to be watched for one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// Directories, free of links.
    pub dirs: BTreeSet<PathBuf>,
    /// The names in them that matter: links on the way, and the end of it.
    pub names: BTreeSet<PathBuf>,
    /// Where the path ends, free of links; `None` when something is missing on the way.
    pub end: Option<PathBuf>,
}

impl Route {
    /// Follows the absolute `path` link by link, as far as it goes.
    pub(super) fn follow(path: &Path) -> Self {
        let mut route = Self::default();
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match std::fs::symlink_metadata(&next) {
                Ok(found) if found.is_symlink() && links < MAX_LINKS => {
                    links += 1;
                    route.depends_on(&at, &next);
                    let Ok(target) = std::fs::read_link(&next) else {
                        return route;
                    };
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                        rest.push_front(name);
                    }
                }
                Ok(_) => {
                    if rest.is_empty() {
                        route.depends_on(&at, &next);
                    }
                    at = next;
                }
                // Missing, or not to be looked at: the change to wait for is that it appears.
                Err(_) => {
                    route.depends_on(&at, &next);
                    return route;
                }
            }
        }
        route.end = Some(at);
        route
    }

    fn depends_on(&mut self, dir: &Path, name: &Path) {
        self.dirs.insert(dir.to_path_buf());
        self.names.insert(name.to_path_buf());
    }

    /// Adds what another path depends on.
    pub(super) fn merge(&mut self, other: Self) {
        self.dirs.extend(other.dirs);
        self.names.extend(other.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_is_depended_on() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("..one")).unwrap();
        std::fs::write(base.join("..one/p.yaml"), "x").unwrap();
        symlink("..one", base.join("..data")).unwrap();
        symlink("..data/p.yaml", base.join("p.yaml")).unwrap();
        let route = Route::follow(&base.join("p.yaml"));
        assert_eq!(route.end, Some(base.join("..one/p.yaml")));
        let names: Vec<_> = route.names.iter().cloned().collect();
        assert_eq!(
            names,
            [
                base.join("..data"),
                base.join("..one/p.yaml"),
                base.join("p.yaml")
            ]
        );
        assert!(route.dirs.contains(&base) && route.dirs.contains(&base.join("..one")));
    }

    #[test]
    fn a_missing_directory_is_waited_for_in_the_nearest_one_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let route = Route::follow(&base.join("gone/deeper/p.yaml"));
        assert_eq!(route.end, None);
        assert_eq!(route.names, BTreeSet::from([base.join("gone")]));
        assert_eq!(route.dirs, BTreeSet::from([base]));
    }

    #[test]
    fn links_in_a_circle_end_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(!Route::follow(&dir.path().join("a")).names.is_empty());
    }
}
