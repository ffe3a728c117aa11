//! The rules of the house, kept by a machine: rooms import only downward, a heavy crate stays in
//! its room, files stay readable, and a few words stay out of the code.
//!
//! It reads the sources as text with comments and literals blanked out, which is enough because
//! of one habit: an import is written `use crate::room::..`, one room a line. Every finding names
//! its file, its line and what to do. The last tests plant a violation of each rule, so that a
//! rule that no longer fires is noticed.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

mod code;
mod fence;

use code::{Code, is_word};

/// Every room with its level. A room may import rooms of lower levels.
const ROOMS: [(&str, u8); 28] = [
    ("fuzzing", 0),
    ("model", 0),
    ("manifest", 1),
    ("planner", 1),
    ("conditions", 1),
    ("clock", 1),
    ("failpoint", 1),
    ("files", 1),
    ("graph", 1),
    ("http", 1),
    ("ownership", 1),
    ("text", 1),
    ("store", 2),
    ("probe", 2),
    ("watch", 2),
    ("images", 3),
    ("driver", 4),
    ("preflight", 5),
    ("reconciler", 5),
    ("usage", 5),
    ("control_plane", 6),
    ("api", 6),
    ("metrics", 6),
    ("notify", 6),
    ("telemetry", 6),
    ("daemon", 7),
    ("dashboard", 7),
    ("web", 7),
];

/// The room on top of them all: it may import every other.
const TOP: &str = "cli";

/// Imports within one level that are wanted all the same: (who, whom).
const SIDEWAYS: [(&str, &str); 0] = [];

/// Where each dependency may be used: prefixes of paths under `src`.
const CRATES: [(&str, &[&str]); 49] = [
    ("serde_yaml", &["manifest"]),
    ("saphyr_parser", &["manifest"]),
    ("annotate_snippets", &["manifest"]),
    ("backoff", &["planner"]),
    ("base64", &["model/codec.rs"]),
    ("humantime", &["model/time.rs"]),
    ("sled", &["store"]),
    ("crc32fast", &["store"]),
    ("notify", &["watch"]),
    ("h2", &["probe"]),
    ("bollard", &["driver/docker"]),
    ("kube", &["driver/kubernetes"]),
    ("k8s_openapi", &["driver/kubernetes"]),
    ("regex", &["driver/logs"]),
    ("terminal_size", &["cli"]),
    ("unicode_width", &["text"]),
    ("jsonwebtoken", &["control_plane"]),
    ("prost", &["control_plane"]),
    ("prost_types", &["control_plane"]),
    ("signature", &["control_plane"]),
    ("sigstore_verify", &["images/keyless.rs"]),
    ("webpki", &["images/notation.rs"]),
    ("x509_cert", &["images/keyless.rs", "images/notation.rs"]),
    (
        "tokio_rustls",
        &["control_plane", "http.rs", "images/notation.rs"],
    ),
    ("rustls_native_certs", &["http.rs"]),
    ("tonic", &["control_plane"]),
    ("tonic_health", &["control_plane"]),
    ("tonic_prost", &["control_plane"]),
    ("tonic_reflection", &["control_plane"]),
    ("libc", &["driver/process"]),
    (
        "rustix",
        &[
            "files",
            "ownership",
            "driver/process",
            "driver/logs",
            "driver/docker",
            "store",
            "probe",
            "preflight",
            "watch",
            "images",
            "control_plane",
            "api",
            "metrics",
            "notify",
            "telemetry",
            "daemon",
            "dashboard",
            "cli",
        ],
    ),
    (
        "hyper",
        &[
            "api",
            "http.rs",
            "probe",
            "control_plane",
            "driver/kubernetes",
            "driver/nomad",
            "images",
            "notify",
            "web",
        ],
    ),
    (
        "hyper_util",
        &["api", "http.rs", "probe", "control_plane", "web"],
    ),
    (
        "http_body_util",
        &[
            "api",
            "http.rs",
            "probe",
            "control_plane",
            "driver/kubernetes",
            "driver/nomad",
            "images",
            "notify",
        ],
    ),
    ("axum", &["api", "probe/tests", "control_plane", "web"]),
    ("tower", &["api", "control_plane", "web"]),
    (
        "ring",
        &[
            "model/kubernetes.rs",
            "model/revision.rs",
            "http.rs",
            "control_plane",
            "driver/kubernetes",
            "images",
            "notify",
            "web",
        ],
    ),
    ("tracing_subscriber", &["telemetry"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("comfy_table", &["cli"]),
    ("indicatif", &["cli"]),
    ("ratatui", &["dashboard"]),
    ("tokio", IMPURE),
    ("tokio_stream", IMPURE),
    ("tokio_util", IMPURE),
    ("futures_util", IMPURE),
    ("async_trait", IMPURE),
    ("tracing", LOGGING),
];

/// Rooms that may wait. The others are plain code that answers at once.
const IMPURE: &[&str] = &[
    "clock",
    "files",
    "http.rs",
    "images",
    "driver",
    "probe",
    "watch",
    "reconciler",
    "usage",
    "control_plane",
    "api",
    "dashboard",
    "metrics",
    "notify",
    "telemetry",
    "daemon",
    "web",
    "cli",
    "main.rs",
];

/// Rooms that may log. Those below return their reasons instead.
const LOGGING: &[&str] = &[
    "clock",
    "store",
    "images",
    "driver",
    "probe",
    "watch",
    "reconciler",
    "control_plane",
    "api",
    "dashboard",
    "notify",
    "telemetry",
    "daemon",
    "web",
    "cli",
    "main.rs",
];

/// Dependencies that are at home everywhere.
const EVERYWHERE: [&str; 4] = ["memchr", "serde", "serde_json", "thiserror"];

/// What must not be written, and what to do instead.
const WORDS: [(&str, &str); 6] = [
    ("todo!", "finish it, or leave it out"),
    ("unimplemented!", "finish it, or leave it out"),
    ("dbg!", "take it out before the commit"),
    ("#[allow(", "write #[expect(.., reason = \"..\")]"),
    ("#![allow(", "write #![expect(.., reason = \"..\")]"),
    (
        ".unwrap()",
        "return the error, or state the invariant with expect",
    ),
];

/// Longer files are split by the question they answer.
const MAX_LINES: usize = 800;

/// What a visitor sees first. Settings of tools live in dotfiles.
const TOP_LEVEL: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "build.rs",
    "src",
    "examples",
    "state",
    "tests",
];

#[test]
fn the_code_keeps_the_rules_of_the_house() {
    let sources = sources();
    assert!(sources.len() > 10, "the sources were not found");
    let findings: Vec<_> = check(&sources).iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n\n{}\n", findings.join("\n"));
}

#[test]
fn every_dependency_has_a_room() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let homeless: Vec<_> = dependencies(&manifest)
        .into_iter()
        .filter(|name| {
            !EVERYWHERE.contains(&name.as_str()) && !CRATES.iter().any(|(known, _)| known == name)
        })
        .collect();
    assert!(
        homeless.is_empty(),
        "Cargo.toml: say in CRATES of tests/architecture/main.rs where these may be used: {homeless:?}"
    );
}

#[test]
fn the_top_level_holds_what_its_table_lists() {
    let listing = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let tracked = match listing {
        Ok(output) if output.status.success() => output.stdout,
        Ok(_) | Err(_) => {
            println!("skipped: this is not a git checkout");
            return;
        }
    };
    let strangers: BTreeSet<_> = String::from_utf8_lossy(&tracked)
        .split_terminator('\0')
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name))
        .map(str::to_owned)
        .collect();
    assert!(
        strangers.is_empty(),
        "not in TOP_LEVEL of tests/architecture/main.rs: {strangers:?}"
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One source file.
struct Source {
    /// From the root of the repository.
    path: PathBuf,
    text: String,
}

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.rule)
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = ["src", "tests", "examples"].map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.expect("a folder of the checkout can be listed");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(entry.path()).expect("sources are UTF-8");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn check(sources: &[Source]) -> Vec<Finding> {
    let test_files = test_files(sources);
    let mut findings = Vec::new();
    for source in sources {
        let is_generated = source.path.iter().any(|part| part == "generated");
        // This file has to spell the words that it forbids, if only in literals.
        let code = Code::new(&source.text);
        let is_test = !source.path.starts_with("src")
            || test_files.iter().any(|file| source.path.starts_with(file));
        let mut report = |offset: usize, rule: String| {
            findings.push(Finding {
                path: source.path.clone(),
                line: code.line_of(offset),
                rule,
            });
        };
        if is_generated {
            continue;
        }
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            report(
                source.text.len().saturating_sub(1),
                format!("{lines} lines; at most {MAX_LINES}, so split it"),
            );
        }
        for (word, instead) in WORDS {
            for (offset, _) in code.text.match_indices(word) {
                let glued = word.starts_with(|c: char| c.is_ascii_alphabetic())
                    && code.text[..offset].ends_with(is_word);
                let excused = word == ".unwrap()" && (is_test || code.within(&code.tests, offset));
                if !glued && !excused {
                    report(offset, format!("`{word}`: {instead}"));
                }
            }
        }
        if let Ok(inner) = source.path.strip_prefix("src") {
            if !source.text.starts_with("//!") {
                report(0, "opens without a `//!` that says what it is for".into());
            }
            check_imports(inner, &code, &mut report);
            if !is_test {
                check_crates(inner, &code, &mut report);
                check_fence(inner, &code, &mut report);
            }
        }
    }
    findings.sort();
    findings
}

/// Drivers stay behind their fence, but for the files on its lists, which may only shrink.
fn check_fence(inner: &Path, code: &Code, report: &mut impl FnMut(usize, String)) {
    let named = fence::named(inner, code);
    let listed = fence::NAMERS
        .iter()
        .find(|(file, _)| inner == Path::new(file));
    let allowed = listed.map_or(0, |(_, count)| *count);
    match named.len() {
        found if found > allowed => {
            for (offset, name) in named {
                report(
                    offset,
                    format!("`{name}`: what depends on the driver is asked of the driver"),
                );
            }
        }
        found if found < allowed => report(
            0,
            format!("names a driver {found} times: say so in NAMERS, which counts {allowed}"),
        ),
        _ => {}
    }
    for target in fence::neighbours(inner, code) {
        let is_listed = fence::NEIGHBOURS
            .iter()
            .any(|(file, whom)| inner == Path::new(file) && target == *whom);
        if !is_listed {
            report(
                0,
                format!("imports driver/{target}: share what both need in `driver`"),
            );
        }
    }
}

/// Which room a path under `src` belongs to; `None` for `lib.rs` and `main.rs`, which see all.
fn room_of(inner: &Path) -> Option<String> {
    let first = inner.iter().next()?.to_str()?.trim_end_matches(".rs");
    (first != "lib" && first != "main").then(|| first.to_owned())
}

fn level_of(room: &str) -> Option<u8> {
    if room == TOP {
        return Some(u8::MAX);
    }
    ROOMS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, level)| *level)
}

fn check_imports(inner: &Path, code: &Code, report: &mut impl FnMut(usize, String)) {
    let Some(room) = room_of(inner) else { return };
    let Some(level) = level_of(&room) else {
        report(0, format!("`{room}` is no room: give it a level in ROOMS"));
        return;
    };
    let mut imports: Vec<(usize, &str)> = code
        .paths("crate")
        .map(|offset| (offset, &code.text[offset + "crate::".len()..]))
        .collect();
    imports.extend(code.climbs_to_the_root(inner));
    for (offset, rest) in imports {
        let target: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if target.is_empty() {
            report(offset, "one `use crate::room::..` a line, no list".into());
            continue;
        }
        let Some(wanted) = level_of(&target) else {
            report(
                offset,
                format!("`{target}` is no room: give it a level in ROOMS"),
            );
            continue;
        };
        let sideways = SIDEWAYS.contains(&(room.as_str(), target.as_str()));
        if target != room && wanted >= level && !sideways {
            report(
                offset,
                format!("`{room}` (level {level}) must not import `{target}` (level {wanted})"),
            );
        }
    }
}

fn check_crates(inner: &Path, code: &Code, report: &mut impl FnMut(usize, String)) {
    for (name, homes) in CRATES {
        // `driver/process` means the folder and `driver/process.rs` alike.
        let is_home = homes
            .iter()
            .any(|home| inner.starts_with(home) || inner == Path::new(&format!("{home}.rs")));
        if is_home {
            continue;
        }
        let renamed = [format!("use {name};"), format!("use {name} as")];
        let renamed = renamed
            .iter()
            .flat_map(|text| code.text.match_indices(text.as_str()))
            .map(|(offset, _)| offset);
        // Tests make the world that they need, by whatever means.
        let shipped = |offset: &usize| !code.within(&code.tests, *offset);
        for offset in code.paths(name).chain(renamed).filter(shipped) {
            report(
                offset,
                format!("the crate `{name}` is at home in {} only", homes.join(", ")),
            );
        }
    }
}

/// Files, and folders of files, that a `#[cfg(test)] mod name;` makes tests.
fn test_files(sources: &[Source]) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for source in sources {
        let code = Code::new(&source.text);
        let folder = match source.path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => source.path.with_file_name(""),
            Some(_) => source.path.with_extension(""),
        };
        for (offset, _) in code.text.match_indices("#[cfg(test)]") {
            let item = code.text[offset + "#[cfg(test)]".len()..].trim_start();
            let item = item.split_once(';').map_or("", |(item, _)| item);
            let name = item.rsplit_once("mod ").map_or("", |(_, name)| name.trim());
            if !name.is_empty() && name.chars().all(is_word) {
                files.insert(folder.join(name));
                files.insert(folder.join(format!("{name}.rs")));
            }
        }
    }
    files
}

/// The names under `[dependencies]`, as code spells them.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().replace('-', "_"))
        .collect()
}

/// What `check` says about one planted file.
fn findings_in(path: &str, body: &str) -> Vec<String> {
    let source = Source {
        path: path.into(),
        text: format!("//! Planted.\n{body}"),
    };
    check(&[source]).iter().map(ToString::to_string).collect()
}

#[test]
fn an_import_upwards_or_sideways_is_found() {
    for (path, body) in [
        ("src/model/ids.rs", "use crate::store::Store;"),
        ("src/planner/mod.rs", "use crate::manifest::parse;"),
        ("src/watch.rs", "fn f() { crate::daemon::run() }"),
        ("src/store/mod.rs", "use super::reconciler::Command;"),
        (
            "src/api/mod.rs",
            "mod tests { use super::super::cli::Args; }",
        ),
        (
            "src/driver/process/mod.rs",
            "use super::super::daemon::Daemon;",
        ),
        (
            "src/store/mod.rs",
            "use crate::{model::Record, clock::Clock};",
        ),
        ("src/attic.rs", ""),
        ("src/store/mod.rs", "use crate::attic::Box;"),
    ] {
        let findings = findings_in(path, body);
        assert_eq!(findings.len(), 1, "{path} {body} {findings:?}");
        let line = if body.is_empty() { 1 } else { 2 };
        assert!(
            findings[0].starts_with(&format!("{path}:{line}: ")),
            "{findings:?}"
        );
    }
}

#[test]
fn an_import_downwards_and_a_mention_in_words_are_not() {
    for (path, body) in [
        ("src/cli/mod.rs", "use crate::daemon::run;"),
        ("src/store/mod.rs", "use crate::model::Record;"),
        ("src/model/ids.rs", "/// See [`crate::store`].\nfn f() {}"),
        ("src/model/ids.rs", "const A: &str = \"crate::store::x\";"),
        (
            "src/model/ids.rs",
            "const A: &str = r#\"\" crate::store::x\"#;",
        ),
        ("src/store/mod.rs", "mod tests { use super::*; }"),
        ("src/store/schema.rs", "use super::Store;"),
        ("src/main.rs", "use crate::cli::run;"),
    ] {
        assert_eq!(findings_in(path, body), [""; 0], "{path} {body}");
    }
}

#[test]
fn a_crate_outside_its_room_is_found() {
    for (path, body) in [
        ("src/store/mod.rs", "use serde_yaml::Value;"),
        ("src/api/mod.rs", "use sled;"),
        ("src/api/mod.rs", "use sled as db;"),
        ("src/planner/mod.rs", "#[tokio::test]\nasync fn f() {}"),
        ("src/manifest/mod.rs", "fn f() { tracing::info!(\"x\") }"),
        ("src/driver/docker.rs", "unsafe { libc::kill(1, 9) };"),
        ("src/model/ids.rs", "use humantime::Duration;"),
    ] {
        let findings = findings_in(path, body);
        assert_eq!(findings.len(), 1, "{path} {body} {findings:?}");
        assert!(findings[0].starts_with(&format!("{path}:2: ")));
    }
    for (path, body) in [
        ("src/model/time.rs", "use humantime::Duration;"),
        ("src/driver/process/sys.rs", "use libc::pid_t;"),
        ("src/store/mod.rs", "use crate::model::notify::Notice;"),
        ("src/api/mod.rs", "fn f(x: X) { x.sled::<u8>() }"),
        (
            "src/watch.rs",
            "#[cfg(test)]\nmod tests { use libc::kill; }",
        ),
    ] {
        let findings = findings_in(path, body);
        let about_crates = findings.iter().any(|f| f.contains("the crate"));
        assert!(!about_crates, "{path} {body} {findings:?}");
    }
}

#[test]
fn forbidden_words_and_long_files_are_found() {
    for word in [
        "todo!()",
        "unimplemented!()",
        "dbg!(1)",
        "#[allow(dead_code)]",
        "x.unwrap()",
    ] {
        let findings = findings_in("src/store/mod.rs", &format!("fn f() {{\n    {word};\n}}"));
        assert_eq!(findings.len(), 1, "{word} {findings:?}");
        assert!(findings[0].starts_with("src/store/mod.rs:3: "));
    }
    let long = findings_in("tests/long.rs", &"fn f() {}\n".repeat(MAX_LINES));
    assert_eq!(long.len(), 1, "{long:?}");
    let undocumented = check(&[Source {
        path: "src/store/mod.rs".into(),
        text: "fn f() {}\n".into(),
    }]);
    assert_eq!(undocumented.len(), 1, "{undocumented:?}");
}

#[test]
fn tests_may_unwrap_wherever_they_are() {
    let inline = "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap(); '}'; \"}\" }\n}\n";
    assert_eq!(findings_in("src/store/mod.rs", inline), [""; 0]);
    let after = format!("{inline}fn g() {{ x.unwrap() }}");
    assert_eq!(findings_in("src/store/mod.rs", &after).len(), 1);
    assert_eq!(findings_in("tests/a.rs", "fn f() { x.unwrap() }"), [""; 0]);

    let source = |path: &str, text: &str| Source {
        path: path.into(),
        text: format!("//! Planted.\n{text}"),
    };
    let in_a_file = [
        source("src/planner/mod.rs", "#[cfg(test)]\nmod tests;"),
        source("src/planner/tests.rs", "fn f() { x.unwrap() }"),
        source("src/planner/tests/table.rs", "fn f() { x.unwrap() }"),
    ];
    assert_eq!(check(&in_a_file), []);
    let beside_it = [
        source("src/planner/mod.rs", "#[cfg(test)]\nmod tests;"),
        source("src/planner/order.rs", "fn f() { x.unwrap() }"),
    ];
    assert_eq!(check(&beside_it).len(), 1);
}

#[test]
fn a_driver_named_outside_or_known_to_another_is_found() {
    for (path, body) in [
        ("src/planner/mod.rs", "fn f() { DriverKind::Docker }"),
        ("src/daemon/new.rs", "fn f() { Workload::Process(x) }"),
        (
            "src/driver/kubernetes/start.rs",
            "use crate::driver::process::secrets_place;",
        ),
    ] {
        let findings = findings_in(path, body);
        assert_eq!(findings.len(), 1, "{path} {body} {findings:?}");
    }
    for (path, body) in [
        (
            "src/driver/kubernetes/mod.rs",
            "fn f() { DriverKind::Kubernetes }",
        ),
        (
            "src/planner/mod.rs",
            "// As DriverKind::Docker does.\nfn f() {}",
        ),
        (
            "src/planner/mod.rs",
            "#[cfg(test)]\nmod tests { fn f() { DriverKind::Docker } }",
        ),
    ] {
        assert_eq!(findings_in(path, body), [""; 0], "{path} {body}");
    }
}
