//! Texts that were made to break a parser, or broken at random.

use proptest::prelude::*;

use super::{HEAD, read, starter};
use crate::manifest::{Colour, MAX_BYTES, Options, parse};

/// `unit` repeated up to the largest file.
fn filled(head: &str, unit: &str) -> String {
    head.to_owned() + &unit.repeat((MAX_BYTES - head.len()) / unit.len())
}

#[test]
fn texts_that_would_explode_are_refused() {
    let bomb: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..60).map(|i| {
            let aliases = format!("*a{},", i - 1).repeat(10);
            format!("a{i}: &a{i} [{aliases}]\n")
        }))
        .collect();
    // A long text that is aliased often costs memory for each alias.
    let long = format!(
        "a: &a \"{}\\n\"\nb: [{}]\n",
        "x".repeat(500_000),
        "*a,".repeat(50_000)
    );
    let shared = format!(
        "{HEAD}  env: {{A: {}}}\n  sources:\n{}",
        "x".repeat(500_000),
        "    - {id: a, command: [x]}\n".repeat(9_000)
    );
    let components: String = (0..40_000)
        .map(|i| format!("    - {{id: c{i}}}\n"))
        .collect();
    for (text, part) in [
        (bomb, "more than 250000 values"),
        (long, "more than 250000 values"),
        (shared, "too much to each of its 9000 components"),
        (
            format!("{HEAD}  sources:\n{components}"),
            "more than 10000 components",
        ),
        (filled("", "x") + "yy", "larger than 1 MiB"),
        (filled("", "["), "brackets and commas"),
        (filled("a: [", "b,"), "brackets and commas"),
        ("[".repeat(10_000), "nested more than 64 levels"),
        (filled("", "- "), "nested more than 64 levels"),
        (
            (0..1_000)
                .map(|i| format!("{}a:\n", " ".repeat(i)))
                .collect(),
            "nested more than 64 levels",
        ),
        (filled("", "\u{202e}"), "reorders text"),
    ] {
        let problems = read(&text).unwrap_err();
        let said = problems.to_string();
        assert!(
            said.contains(part),
            "{}",
            said.chars().take(500).collect::<String>()
        );
        assert!(problems.render(Colour::Off).len() < 100_000);
    }
}

#[test]
fn lists_as_long_as_a_file_are_read_in_one_pass() {
    let inputs: String = (0..70_000).map(|i| format!("a{i},")).collect();
    let ports: String = (1..=20_000)
        .map(|i| format!("{{containerPort: {i}}},"))
        .collect();
    let chain: String = (0..9_999)
        .map(|i| {
            format!(
                "    - {{id: c{i}, command: [x], inputs: [c{}]}}\n",
                (i + 1) % 9_999
            )
        })
        .collect();
    for (text, problems) in [
        (
            format!("{HEAD}  sources: [{{id: a, command: [x], inputs: [{inputs}]}}]\n"),
            100,
        ),
        (
            format!("{HEAD}  sources: [{{id: a, command: [x], ports: [{ports}]}}]\n"),
            0,
        ),
        (format!("{HEAD}  sources:\n{chain}"), 1),
    ] {
        let found = read(&text).map_or_else(|problems| problems.findings.len(), |_| 0);
        assert_eq!(found, problems);
    }
}

#[test]
fn a_thousand_mistakes_are_cut_to_a_hundred_and_counted() {
    let components: String = (0..1_000)
        .map(|i| format!("    - {{id: c{i}, command: [x], zz: 1}}\n"))
        .collect();
    let problems = read(&format!("{HEAD}  sources:\n{components}")).unwrap_err();
    assert_eq!((problems.findings.len(), problems.left_out), (100, 900));
    let message = problems.first(None).unwrap().message;
    assert!(message.ends_with("(and 999 more problems)"), "{message}");
}

#[test]
fn warnings_never_crowd_out_the_error_that_refuses_the_file() {
    let old: String = (0..200)
        .map(|i| format!("    - {{name: c{i}, command: [x]}}\n"))
        .collect();
    let problems = read(&format!(
        "{HEAD}  sources:\n{old}    - {{id: last, command: [x], zz: 1}}\n"
    ))
    .unwrap_err();
    assert_eq!(problems.errors().count(), 1);
}

#[test]
fn a_finding_on_an_endless_line_keeps_its_place_and_leaves_the_line_out() {
    let text = format!(
        "{HEAD}  description: {}\n  sources: []\n  zz{}: 1\n",
        "é".repeat(3_000),
        "z".repeat(3_000)
    );
    let problems = read(&text).unwrap_err();
    let shown = problems.render(Colour::Off);
    assert!(
        shown.contains("--> pipeline.yaml:7:3") && shown.len() < 1_500,
        "{shown}"
    );
}

/// A text that is valid but for a few bytes.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let whole = include_str!("../../../tests/data/manifests/good/whole-schema.yaml");
    let old = include_str!("../../../tests/data/manifests/good/old-spellings.yaml");
    let base = prop_oneof![Just(whole), Just(old), Just(starter())];
    let pieces = prop_oneof![
        Just("\n".to_owned()),
        Just("  ".to_owned()),
        Just("\t".to_owned()),
        Just("${{".to_owned()),
        Just("*a".to_owned()),
        Just("&a".to_owned()),
        Just("<<: ".to_owned()),
        Just("- ".to_owned()),
        Just("{".to_owned()),
        Just("]".to_owned()),
        Just("\"".to_owned()),
        Just("é日".to_owned()),
        Just("\0".to_owned()),
        Just("---\n".to_owned()),
        Just("!!str ".to_owned()),
        Just("|".to_owned()),
        "[ -~]{0,6}",
    ];
    let edits =
        proptest::collection::vec((any::<prop::sample::Index>(), 0..40_usize, pieces), 1..8);
    (base, edits).prop_map(|(base, edits)| {
        let mut text = base.as_bytes().to_vec();
        for (index, cut, piece) in edits {
            let at = index.index(text.len().max(1)).min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, piece.into_bytes());
        }
        text
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_every_place_is_in_the_text(text in mutated()) {
        if let Err(problems) = parse("p", &text, &Options::at("/base")) {
            prop_assert!(problems.errors().next().is_some());
            let lines = u32::try_from(text.split(|b| *b == b'\n').count()).unwrap();
            for finding in &problems.findings {
                prop_assert!(finding.line.is_none_or(|line| line >= 1 && line <= lines));
            }
            prop_assert!(!problems.render(Colour::On).is_empty());
        }
    }

    #[test]
    fn random_bytes_are_refused_in_words(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse("p", &text, &Options::at("/base")).is_err());
    }
}
