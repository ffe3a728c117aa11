//! Every broken file says what is wrong with it; every good one reads as expected.

use std::path::{Path, PathBuf};

use super::{Colour, Options, Parsed, Problems, parse, starter};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/manifests")
        .join(folder)
}

fn read(text: &str) -> Result<Parsed, Problems> {
    parse("pipeline.yaml", text.as_bytes(), &Options::at("/base"))
}

/// Compares what each file of a folder gives with the text beside it.
fn compare(folder: &str, outcome: impl Fn(&str, &[u8]) -> String) -> usize {
    let mut differences = String::new();
    let mut files = 0;
    for entry in std::fs::read_dir(data(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        files += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = outcome(name, &std::fs::read(&path).unwrap());
        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected_path, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            differences +=
                &format!("--- {folder}/{name} gives\n{said}--- instead of\n{expected}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    files
}

#[test]
fn every_broken_file_gives_exactly_the_expected_text() {
    let files = compare("broken", |name, text| {
        parse(name, text, &Options::at("/base"))
            .map(|_| "nothing is wrong\n".to_owned())
            .unwrap_or_else(|problems| problems.render(Colour::Off))
    });
    assert!(files >= 40, "only {files} broken files");
}

#[test]
fn every_good_file_gives_only_the_expected_warnings() {
    compare("good", |name, text| {
        match parse(name, text, &Options::at("/base")) {
            Ok(parsed) => parsed.warnings.render(Colour::Off),
            Err(problems) => format!("REFUSED\n{}", problems.render(Colour::Off)),
        }
    });
}

#[test]
fn the_starter_file_is_read_without_a_word() {
    let parsed = read(starter()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
}

#[test]
fn every_example_is_read_without_a_word() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files = 0;
    for folder in std::fs::read_dir(examples).unwrap() {
        let folder = folder.unwrap().path();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            files += 1;
            let name = path.display().to_string();
            match parse(&name, &std::fs::read(&path).unwrap(), &Options::at(&folder)) {
                Ok(parsed) => assert!(parsed.warnings.is_empty(), "{}", parsed.warnings),
                Err(problems) => panic!("{problems}"),
            }
        }
    }
    assert!(files > 0);
}
