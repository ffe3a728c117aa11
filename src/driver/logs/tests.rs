//! Reading on while others write, cut, move and remove.

use std::ffi::CString;
use std::fs;

use super::replica::{Replica, Start};
use super::*;

const TIME: &str = "2026-11-21T03:04:";

fn key() -> ReplicaKey {
    ReplicaKey {
        component: "a".parse().unwrap(),
        replica: 0,
    }
}

fn writer(dir: &Path, run: u64) -> Writer<CString> {
    let budget = Budget {
        max_size: 64 << 10,
        max_files: 50,
    };
    Writer::new(CString::new(dir.to_str().unwrap()).unwrap(), run, budget)
}

/// A record of the second `at`.
fn record(at: u32, tag: char, text: &str) -> String {
    format!("{TIME}{at:02}.000000000Z stdout {tag} {text}\n")
}

fn write(writer: &mut Writer<CString>, records: &str) {
    assert_eq!(writer.append(records.as_bytes()).refused, None);
}

fn reader(dir: &Path, start: Start) -> Replica {
    let mut reader = Replica::new(dir.to_owned(), key(), None);
    reader.seek(start).unwrap();
    reader
}

/// What can be read by now.
fn read(reader: &mut Replica) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = reader.take().unwrap() {
        lines.push(String::from_utf8(line.text).unwrap());
    }
    lines
}

#[test]
fn whatever_others_do_to_the_files_a_follower_loses_and_repeats_nothing() {
    type Tampering = fn(&Path);
    fn newest(dir: &Path) -> PathBuf {
        let newest = *replica::files(dir).unwrap().last().unwrap();
        dir.join(FileName(newest).to_string())
    }
    let table: [(&str, Tampering); 7] = [
        ("nothing", |_| {}),
        ("removed", |dir| fs::remove_file(newest(dir)).unwrap()),
        ("moved", |dir| {
            fs::rename(newest(dir), dir.join("x.log.1")).unwrap()
        }),
        ("cut", |dir| fs::write(newest(dir), "").unwrap()),
        ("cut to a part", |dir| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(newest(dir))
                .unwrap();
            let whole = record(1, 'F', "one").len() as u64;
            file.set_len(whole).unwrap();
        }),
        ("written anew", |dir| {
            let text = fs::read(newest(dir)).unwrap();
            fs::write(dir.join("new"), text).unwrap();
            fs::rename(dir.join("new"), newest(dir)).unwrap();
        }),
        ("all removed", |dir| fs::remove_dir_all(dir).unwrap()),
    ];
    for (what, tamper) in table {
        // Written on by who wrote before, and by one who knows nothing of it.
        for resumes in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("0");
            let mut first = writer(&dir, 7);
            write(&mut first, &record(1, 'F', "one"));
            write(&mut first, &record(2, 'F', "two"));
            let mut reader = reader(&dir, Start::Beginning);
            assert_eq!(read(&mut reader), ["one", "two"]);
            let mut at = 3;
            for round in 0..3 {
                tamper(&dir);
                let mut other = writer(&dir, 7);
                let to = if resumes { &mut first } else { &mut other };
                // Longer than what was there: the size alone tells nothing.
                let text = format!("{round} {}", "x".repeat(300));
                write(to, &record(at, 'F', &text));
                let read = read(&mut reader);
                assert_eq!(read, [text], "{what}, {round}, resumes: {resumes}");
                write(to, &record(at + 1, 'F', "short"));
                to.close();
                assert_eq!(
                    super::tests::read(&mut reader),
                    ["short"],
                    "{what}, {round}"
                );
                at += 2;
            }
        }
    }
}

#[test]
fn a_line_is_handed_on_in_parts_that_break_no_character_and_the_tail_counts_lines() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("0");
    let long = "\u{20ac}".repeat(1 << 20);
    // Pieces that end within characters.
    let pieces: Vec<&[u8]> = long.as_bytes().chunks(16 << 10).collect();
    let mut log = Writer::new(
        CString::new(dir.to_str().unwrap()).unwrap(),
        7,
        Budget {
            max_size: 1 << 20,
            max_files: 50,
        },
    );
    write(&mut log, &record(1, 'F', "before"));
    for (number, piece) in pieces.iter().enumerate() {
        let tag = if number + 1 == pieces.len() { 'F' } else { 'P' };
        let mut bytes = record(2, tag, "").into_bytes();
        bytes.pop();
        bytes.extend_from_slice(piece);
        bytes.push(b'\n');
        assert_eq!(log.append(&bytes).refused, None);
    }
    write(&mut log, &record(3, 'F', "after"));
    for start in [Start::Beginning, Start::Tail(2)] {
        let mut reader = reader(&dir, start);
        let (mut whole, mut parts) = (String::new(), 0);
        while let Some(line) = reader.take().unwrap() {
            let text = String::from_utf8(line.text).expect("no character is broken");
            if text == "before" {
                continue;
            }
            whole.push_str(&text);
            parts += 1;
            if line.ends {
                break;
            }
        }
        assert!(
            whole == long,
            "{start:?}: {} bytes of {}",
            whole.len(),
            long.len()
        );
        assert!(parts > 2);
        assert_eq!(read(&mut reader), ["after"]);
    }
}

#[test]
fn what_was_begun_is_shown_and_its_rest_goes_on_with_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("0");
    let mut log = writer(&dir, 7);
    write(&mut log, &record(1, 'P', "Enter "));
    let mut follower = reader(&dir, Start::Beginning);
    assert_eq!(read(&mut follower), [] as [&str; 0]);
    assert_eq!(follower.overdue(), [], "it may still go on");
    let begun = loop {
        let begun = follower.overdue();
        if !begun.is_empty() {
            break begun;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(
        (begun[0].text.as_slice(), begun[0].ends),
        (b"Enter ".as_slice(), false)
    );
    write(&mut log, &record(2, 'P', "pass"));
    write(&mut log, &record(3, 'F', "word"));
    let rest = follower.take().unwrap().unwrap();
    assert_eq!(
        (rest.text.as_slice(), rest.ends),
        (b"password".as_slice(), true)
    );
    assert_eq!(rest.at_nanos, begun[0].at_nanos, "it is one line");
    // Who comes later sees one line.
    assert_eq!(
        read(&mut reader(&dir, Start::Beginning)),
        ["Enter password"]
    );
}

#[test]
fn a_line_does_not_go_on_in_the_next_run() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("0");
    let mut killed = writer(&dir, 7);
    write(&mut killed, &record(1, 'P', "Enter "));
    killed.close();
    let mut next = writer(&dir, 8);
    write(&mut next, &record(2, 'F', "hello"));
    for start in [Start::Beginning, Start::Tail(2)] {
        let mut reader = reader(&dir, start);
        let mut lines = Vec::new();
        while let Some(line) = reader.take().unwrap() {
            lines.push((line.incarnation, String::from_utf8(line.text).unwrap()));
        }
        assert_eq!(lines, [(7, "Enter ".to_owned()), (8, "hello".to_owned())]);
    }
    assert_eq!(read(&mut reader(&dir, Start::Tail(1))), ["hello"]);
}
