//! The policy's file and those that it names, read as one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keyless::Root;
use super::keys::{KEY_LIMIT, PublicKey};
use super::notation::Store;
use super::sha256;
use crate::files::{self, Looked, ReadError, Wanted};
use crate::manifest::{PolicyFiles, Problems, parse_image_policy};
use crate::model::image::{Digest, ImagePolicy};
use crate::ownership::Trusted;

/// How long a file system may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest trusted root, in bytes.
const ROOT_LIMIT: u64 = 4 << 20;

/// A policy with all that it names.
#[derive(Debug)]
pub struct Loaded {
    /// Where it lies.
    pub file: PathBuf,
    /// What it says.
    pub policy: ImagePolicy,
    /// Its keys by name.
    pub keys: BTreeMap<String, PublicKey>,
    /// Whom certificates are believed from, by name.
    pub roots: BTreeMap<String, Root>,
    /// Whom Notation's certificates are believed from, by name.
    pub stores: BTreeMap<String, Store>,
    /// What is worth telling of it.
    pub warnings: Problems,
    /// The digest of all its bytes, those of keys and roots included.
    pub hash: Digest,
}

impl Loaded {
    /// How a line of it is called.
    pub fn place(&self, line: u32) -> String {
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        format!("{}:{line}", name.to_string_lossy())
    }
}

/// Reads a policy. Blocks, for a while at most.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let name = path.to_string_lossy();
    let text = read(path, files::LARGEST)
        .map_err(|why| Problems::whole_file(&name, format!("the image policy {why}"), None))?;
    let mut files = Files::default();
    let base = path.parent().unwrap_or(Path::new("/"));
    let parsed = parse_image_policy(&name, &text, base, &mut files)?;
    let mut all = vec![text];
    all.extend(files.bytes.into_inner());
    Ok(Loaded {
        file: path.to_owned(),
        policy: parsed.policy,
        warnings: parsed.warnings,
        keys: files.keys,
        roots: files.roots,
        stores: files.stores,
        hash: of_parts(&all),
    })
}

/// One digest of several texts; none can pose as a part of its neighbour.
pub(super) fn of_parts<T: AsRef<[u8]>>(parts: &[T]) -> Digest {
    let mut whole = Vec::with_capacity(parts.len() * 32);
    for part in parts {
        whole.extend_from_slice(sha256(part.as_ref()).bytes());
    }
    sha256(&whole)
}

#[derive(Default)]
struct Files {
    keys: BTreeMap<String, PublicKey>,
    roots: BTreeMap<String, Root>,
    stores: BTreeMap<String, Store>,
    /// Names and contents, in the order of the policy.
    bytes: RefCell<Vec<Vec<u8>>>,
}

impl Files {
    fn keep(&self, name: &str, bytes: &[u8]) {
        let mut all = self.bytes.borrow_mut();
        all.push(name.as_bytes().to_owned());
        all.push(bytes.to_owned());
    }
}

impl PolicyFiles for Files {
    fn key(&mut self, name: &str, file: &Path) -> Result<(), String> {
        let bytes = read(file, KEY_LIMIT)?;
        let key = PublicKey::from_pem(&bytes)?;
        self.keep(name, &bytes);
        self.keys.insert(name.to_owned(), key);
        Ok(())
    }

    fn root(&mut self, name: &str, file: &Path) -> Result<(), String> {
        let bytes = read(file, ROOT_LIMIT)?;
        let root = Root::read(&bytes)?;
        self.keep(name, &bytes);
        self.roots.insert(name.to_owned(), root);
        Ok(())
    }

    fn store(&mut self, name: &str, file: &Path) -> Result<(), String> {
        let bytes = read(file, ROOT_LIMIT)?;
        let store = Store::read(&bytes)?;
        self.keep(name, &bytes);
        self.stores.insert(name.to_owned(), store);
        Ok(())
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let wanted = Wanted {
        path,
        limit,
        judge: is_ours,
    };
    match files::look(wanted, PATIENCE) {
        Ok(Looked::Whole(bytes)) => Ok(bytes),
        Ok(Looked::Pipe) => Err("is a pipe".to_owned()),
        Err(ReadError::Refused(why)) => Err(why),
        Err(error) => Err(error.to_string()),
    }
}

/// Whoever can change a policy or a key decides what runs.
fn is_ours(path: &Path, _: &File) -> Result<(), String> {
    Trusted::ours().check_ours(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::images::keys::tests::Pair;

    const POLICY: &str =
        "apiVersion: flowctl/v1\nkind: ImagePolicy\ndefault: deny\nkeys: { a: { file: a.pub } }\n";

    #[test]
    fn the_hash_covers_the_policy_and_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        fs::write(&file, POLICY).unwrap();
        fs::write(folder.path().join("a.pub"), Pair::p256().pem()).unwrap();
        let first = load(&file).unwrap();
        assert_eq!(load(&file).unwrap().hash, first.hash);
        assert_eq!(first.place(3), "images.yaml:3");
        // Another key under the same name, and then another text.
        fs::write(folder.path().join("a.pub"), Pair::p256().pem()).unwrap();
        let second = load(&file).unwrap();
        assert_ne!(second.hash, first.hash);
        fs::write(&file, format!("{POLICY}# x\n")).unwrap();
        assert_ne!(load(&file).unwrap().hash, second.hash);
    }

    #[test]
    fn what_others_could_change_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.yaml");
        fs::write(&file, POLICY).unwrap();
        let key = folder.path().join("a.pub");
        fs::write(&key, Pair::p256().pem()).unwrap();
        for open in [&file, &key] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o666)).unwrap();
            let problems = load(&file).unwrap_err().to_string();
            assert!(problems.contains("everybody may write"), "{problems}");
            fs::set_permissions(open, fs::Permissions::from_mode(0o644)).unwrap();
        }
        load(&file).unwrap();
        fs::remove_file(&key).unwrap();
        let problems = load(&file).unwrap_err().to_string();
        assert!(problems.contains("images.yaml:4:20: "), "{problems}");
        fs::remove_file(&file).unwrap();
        let problems = load(&file).unwrap_err().to_string();
        assert!(problems.contains("does not exist"), "{problems}");
    }
}
