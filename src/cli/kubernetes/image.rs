//! This program as a container image: the program, what it is linked with, and nothing else. No engine
//! and no registry is needed to make it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::exit::Failure;
use crate::images::sha256;

/// Who the program runs as: nobody of any host.
const USER: u32 = 65_532;
/// Where the program is in its image.
const PROGRAM: &str = "usr/bin/flowctl";
/// Those who vouch for servers, where this host has them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The program header that names the loader.
const PT_INTERP: u32 = 3;
/// The unit of a tar archive.
const BLOCK: usize = 512;

/// Writes the image `name` to `output`, as `docker save` would; answers how large it is.
pub(super) fn write(output: &Path, name: &str) -> Result<usize, Failure> {
    let failed = |operation: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| Failure::File {
            operation,
            path,
            source,
        }
    };
    let own = std::env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    let program = fs::read(&own).map_err(failed("read", &own))?;
    let mut files = BTreeMap::new();
    let mut libraries = loaded().map_err(failed("read", Path::new("/proc/self/maps")))?;
    libraries.extend(loader(&program));
    for path in libraries {
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        files.insert(inside(&path), (bytes, 0o755));
    }
    files.insert(PROGRAM.to_owned(), (program, 0o755));
    if let Ok(authorities) = fs::read(AUTHORITIES) {
        files.insert(inside(Path::new(AUTHORITIES)), (authorities, 0o644));
    }
    for (path, text) in [
        (
            "etc/passwd",
            format!("flowctl:x:{USER}:{USER}::/var/lib/flowctl:/\n"),
        ),
        ("etc/group", format!("flowctl:x:{USER}:\n")),
        ("etc/nsswitch.conf", "hosts: files dns\n".to_owned()),
    ] {
        files.insert(path.to_owned(), (text.into_bytes(), 0o644));
    }
    let image = image(name, &layer(&files));
    fs::write(output, &image).map_err(failed("write", output))?;
    Ok(image.len())
}

/// A path of this host as a path of the image.
fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// The libraries that this process has loaded.
fn loaded() -> io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let paths = maps.lines().filter_map(|line| line.split_once('/'));
    Ok(paths
        .map(|(_, path)| PathBuf::from(format!("/{path}")))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".so") || name.contains(".so.")
        })
        .collect())
}

/// What loads the libraries of a program of 64 bits; `None` = it has none.
fn loader(program: &[u8]) -> Option<PathBuf> {
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at.checked_add(length)?)?;
        let number = bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        usize::try_from(number).ok()
    };
    let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let at = (0..count)
        .filter_map(|header| first.checked_add(header.checked_mul(size)?))
        .find(|at| number(*at, 4) == usize::try_from(PT_INTERP).ok())?;
    let (offset, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
    let text = program.get(offset..offset.checked_add(length)?)?;
    let text = str::from_utf8(text).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\0')))
}

/// The one layer of the image.
fn layer(files: &BTreeMap<String, (Vec<u8>, u32)>) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut folders: BTreeSet<&Path> = [Path::new("tmp"), Path::new("var/lib/flowctl")].into();
    folders.extend(files.keys().map(Path::new).filter_map(Path::parent));
    let all: BTreeSet<&Path> = folders.iter().flat_map(|path| path.ancestors()).collect();
    for folder in all.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        let mode = if folder == Path::new("tmp") {
            0o1777
        } else {
            0o755
        };
        let owner = if folder.ends_with("flowctl") { USER } else { 0 };
        entry(
            &mut archive,
            &format!("{}/", folder.display()),
            (mode, owner),
            None,
        );
    }
    for (path, (bytes, mode)) in files {
        entry(&mut archive, path, (*mode, 0), Some(bytes));
    }
    ended(archive)
}

/// The archive of an image of one layer, as `docker load` takes it.
fn image(name: &str, layer: &[u8]) -> Vec<u8> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": ["/usr/bin/flowctl"],
            "Env": ["PATH=/usr/bin", "HOME=/var/lib/flowctl"],
            "WorkingDir": "/var/lib/flowctl",
        },
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer).to_string()]},
    });
    let config = config.to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()).hex());
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = Vec::with_capacity(layer.len() + 8 * BLOCK);
    entry(
        &mut archive,
        &config_name,
        (0o644, 0),
        Some(config.as_bytes()),
    );
    entry(&mut archive, "layer.tar", (0o644, 0), Some(layer));
    let manifest = manifest.to_string();
    entry(
        &mut archive,
        "manifest.json",
        (0o644, 0),
        Some(manifest.as_bytes()),
    );
    ended(archive)
}

/// Adds a file, or a folder where there are no bytes, to a tar archive (POSIX ustar).
fn entry(archive: &mut Vec<u8>, path: &str, (mode, owner): (u32, u32), bytes: Option<&[u8]>) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    // Names of libraries and of ours are far shorter.
    put(0, path.get(..100).unwrap_or(path));
    put(100, &format!("{mode:07o}"));
    put(108, &format!("{owner:07o}"));
    put(116, &format!("{owner:07o}"));
    put(124, &format!("{:011o}", bytes.map_or(0, <[u8]>::len)));
    put(136, &format!("{:011o}", 0));
    put(148, "        ");
    put(156, if bytes.is_some() { "0" } else { "5" });
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    if let Some(bytes) = bytes {
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
}

fn ended(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_image_is_read_by_tar_and_holds_all_that_the_program_needs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        let size = write(&path, "flowctl:test").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
        let run = |words: &[&str]| {
            let output = Command::new("tar")
                .args(words)
                .current_dir(dir.path())
                .output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{words:?}: {said}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["-xf", "image.tar"]);
        let manifest = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
        assert!(manifest.contains("flowctl:test"), "{manifest}");
        let listed = run(&["-tvf", "layer.tar"]);
        for words in [
            "usr/bin/flowctl",
            "etc/passwd",
            "drwxrwxrwt 0/0",
            "65532/65532",
        ] {
            assert!(listed.contains(words), "{words}: {listed}");
        }
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        if let Some(loader) = loader(&own) {
            assert!(listed.contains(&inside(&loader)), "{loader:?}: {listed}");
            assert!(listed.contains("libc.so"), "{listed}");
        }
    }

    #[test]
    fn what_is_no_program_has_no_loader() {
        for bytes in [&b""[..], b"#!/bin/sh\n", &[0xff; 200]] {
            assert_eq!(loader(bytes), None);
        }
    }
}
