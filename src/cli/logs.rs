//! `flowctl logs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use futures_util::future::select_all;

use super::Context;
use super::args::{Logs, Sieve, TextOrJson};
use super::exit::{Exit, Failure};
use super::last_lines::next_entry;
use super::out::tell;
use super::reader;
use super::status::ended;
use super::target::{Target, component, components_named, deleted, labelled, pipeline};
use super::text::{Style, Tone, clean, paint, short, size};
use crate::api::{KeptEntry, Lines, LogEntry, LogParams, StreamName};
use crate::driver::logs::filter::{Asked, Filter, Level};
use crate::model::{
    ComponentId, ComponentStatus, InstanceId, Namespace, PipelineKey, ReplicaKey, Snapshot,
    Timestamp,
};

/// Which components of which pipelines.
type Wanted = BTreeMap<PipelineKey, BTreeSet<ComponentId>>;

pub(super) async fn run(cx: &mut Context<'_>, args: Logs) -> Result<Exit, Failure> {
    if args.deleted {
        return list_deleted(cx, args.output).await;
    }
    check(&args.sieve)?;
    let wanted = wanted(cx, &args).await?;
    if args.path {
        return list_files(cx, &wanted);
    }
    let tail = args.tail.or_else(|| of_a_terminal(cx, &args));
    let now = cx.clock.now();
    let mut feeds = Vec::new();
    for (pipeline, components) in &wanted {
        let ids: Vec<&str> = components.iter().map(ComponentId::as_str).collect();
        let params = LogParams {
            since: args.since.map(|moment| moment.from(now)),
            until: args.until.map(|moment| moment.from(now)),
            tail,
            grep: args.sieve.grep.clone(),
            ignore_case: args.sieve.ignore_case,
            invert: args.sieve.invert,
            before: args.sieve.before,
            after_each: args.sieve.after,
            level: args.sieve.level.map(Level::from),
            fields: fields(&args.sieve),
            previous: args.previous,
            defined: args.components.is_empty(),
            follow: args.follow,
            ..LogParams::of(pipeline, ids.join(","))
        };
        feeds.push(Feed {
            lines: cx.client.logs(&params).await?,
            head: None,
        });
    }
    let mut prefixes = Prefixes::new(&wanted, cx.out.look().style);
    if args.no_prefix {
        prefixes.is_shown = Shown::Never;
    }
    let mut page = Page::new(prefixes, &args);
    let ended = if args.follow {
        follow(cx, feeds, &mut page).await
    } else {
        merge(cx, feeds, &mut page).await
    };
    cx.out.put(page.end())?;
    ended
}

/// So many lines of each component are shown on a terminal, unless something says which.
const ON_A_TERMINAL: u64 = 200;

fn of_a_terminal(cx: &Context<'_>, args: &Logs) -> Option<u64> {
    let sieve = &args.sieve;
    let says_which = args.all
        || args.previous
        || args.since.is_some()
        || args.until.is_some()
        || sieve.grep.is_some()
        || sieve.level.is_some()
        || !sieve.field.is_empty();
    if says_which || !cx.out.is_terminal() || args.output == TextOrJson::Json {
        return None;
    }
    tell(&format!(
        "note: the last {ON_A_TERMINAL} lines of each component; --all shows what else is kept"
    ));
    Some(ON_A_TERMINAL)
}

fn fields(sieve: &Sieve) -> String {
    let fields = sieve.field.iter();
    let fields: Vec<String> = fields
        .map(|pair| format!("{}={}", pair.key, pair.value))
        .collect();
    fields.join("\n")
}

/// Refuses what no daemon understands before one is asked.
fn check(sieve: &Sieve) -> Result<(), Failure> {
    if sieve
        .field
        .iter()
        .any(|pair| pair.value.contains('\n') || pair.key.contains('\n'))
    {
        let why = "--field: a line has no newline in it".to_owned();
        return Err(Failure::Usage(why));
    }
    let asked = Asked {
        pattern: sieve.grep.clone(),
        ..Asked::default()
    };
    match Filter::new(&asked) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Usage(format!("--grep: {error}"))),
    }
}

/// Lists the files that hold the lines of what is wanted, oldest first.
fn list_files(cx: &mut Context<'_>, wanted: &Wanted) -> Result<Exit, Failure> {
    let logs = cx.state_dir.join("logs");
    for (pipeline, components) in wanted {
        for component in components {
            let folder = logs
                .join(pipeline.namespace.as_str())
                .join(pipeline.name.as_str())
                .join(component.as_str());
            for file in log_files(&folder).map_err(|source| Failure::File {
                operation: "list",
                path: folder.clone(),
                source,
            })? {
                cx.out.line(file.as_os_str().as_bytes())?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The log files of all replicas of a component, whose folder this is.
fn log_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for replica in entries(folder)? {
        files.extend(entries(&replica)?);
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    Ok(files)
}

/// What is in a folder, in order; nothing when it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

async fn wanted(cx: &mut Context<'_>, args: &Logs) -> Result<Wanted, Failure> {
    let snapshot = labelled(reader::status(cx).await?, &args.labels)?;
    let namespace = cx.global.namespace.clone();
    let namespace = namespace.as_ref();
    let mut wanted = Wanted::new();
    let mut kept = None;
    for text in &args.components {
        let targets = match component(&snapshot, namespace, text) {
            Err(Failure::NotFound(_)) => match pipeline(&snapshot, namespace, text) {
                Err(Failure::NotFound(_)) => {
                    let kept = match &mut kept {
                        Some(kept) => kept,
                        None => kept.insert(kept_targets(cx).await?),
                    };
                    deleted(kept, namespace, text)?
                }
                named => all_of(&snapshot, &named?),
            },
            named => vec![named?],
        };
        for Target {
            pipeline,
            component,
        } in targets
        {
            wanted.entry(pipeline).or_default().insert(component);
        }
    }
    if args.components.is_empty() {
        for status in &snapshot.pipelines {
            if namespace.is_none_or(|wanted| *wanted == status.namespace) {
                let ids = status.components.iter().map(|c| c.id.clone());
                wanted.insert(status.key(), ids.collect());
            }
        }
    }
    for text in &args.exclude {
        // One name in several pipelines means all of them, as all of them would be shown.
        for target in components_named(&snapshot, namespace, text)? {
            if let Some(components) = wanted.get_mut(&target.pipeline) {
                components.remove(&target.component);
            }
        }
    }
    // No component at all would mean all of them.
    wanted.retain(|_, components| args.exclude.is_empty() || !components.is_empty());
    Ok(wanted)
}

fn all_of(snapshot: &Snapshot, pipeline: &PipelineKey) -> Vec<Target> {
    let mut pipelines = snapshot.pipelines.iter();
    let status = pipelines.find(|status| status.key() == *pipeline);
    let components = status.iter().flat_map(|status| &status.components);
    let target = |component: &ComponentStatus| Target {
        pipeline: pipeline.clone(),
        component: component.id.clone(),
    };
    components.map(target).collect()
}

/// What is deleted and has left logs.
pub(super) async fn kept_targets(cx: &Context<'_>) -> Result<Vec<Target>, Failure> {
    let kept = cx.client.kept_logs().await?.into_iter();
    let targets = kept.map(|log| Target {
        pipeline: PipelineKey {
            namespace: log.namespace,
            name: log.pipeline,
        },
        component: log.component,
    });
    let targets: BTreeSet<Target> = targets.collect();
    Ok(targets.into_iter().collect())
}

/// Lists the logs that are kept of what is deleted.
async fn list_deleted(cx: &mut Context<'_>, output: TextOrJson) -> Result<Exit, Failure> {
    reader::status(cx).await?;
    let now = cx.clock.now();
    let namespace = cx.global.namespace.as_ref();
    let mut kept = cx.client.kept_logs().await?;
    kept.retain(|log| namespace.is_none_or(|wanted| *wanted == log.namespace));
    for log in &kept {
        match output {
            TextOrJson::Json => {
                let json = serde_json::to_vec(log).expect("a log has string keys only");
                cx.out.line(&json)?;
            }
            TextOrJson::Text => cx.out.put(&deleted_line(log, now))?,
        }
    }
    Ok(Exit::Done)
}

fn deleted_line(log: &KeptEntry, now: Timestamp) -> String {
    let pipeline = PipelineKey {
        namespace: log.namespace.clone(),
        name: log.pipeline.clone(),
    };
    let replica = ReplicaKey {
        component: log.component.clone(),
        replica: log.replica,
    };
    let name = prefix(Shown::PipelineToo, &pipeline, &replica.to_string());
    let since = match log.deleted_at {
        Some(at) => format!("deleted {} ago", short(now.since(at))),
        None => "deleted just now".to_owned(),
    };
    format!("{name}: {}, {since}\n", size(log.bytes))
}

/// The lines of one pipeline, which its daemon has merged already.
struct Feed {
    lines: Lines,
    /// The next line, where it was read ahead.
    head: Option<LogEntry>,
}

/// Kept lines of all pipelines in the order of their times.
async fn merge(
    cx: &mut Context<'_>,
    mut feeds: Vec<Feed>,
    page: &mut Page<'_>,
) -> Result<Exit, Failure> {
    loop {
        for feed in &mut feeds {
            if feed.head.is_none() {
                feed.head = next_entry(&mut feed.lines).await?;
            }
        }
        let earliest = feeds
            .iter_mut()
            .filter(|feed| feed.head.is_some())
            .min_by_key(|feed| feed.head.as_ref().map(|entry| entry.at_nanos));
        let Some(entry) = earliest.and_then(|feed| feed.head.take()) else {
            return Ok(Exit::Done);
        };
        page.print(cx, &entry)?;
    }
}

/// Lines of all pipelines as they come.
async fn follow(
    cx: &mut Context<'_>,
    mut feeds: Vec<Feed>,
    page: &mut Page<'_>,
) -> Result<Exit, Failure> {
    while !feeds.is_empty() {
        let (outcome, index, _) = {
            let waits = feeds
                .iter_mut()
                .map(|feed| Box::pin(next_entry(&mut feed.lines)));
            select_all(waits).await
        };
        match outcome? {
            Some(entry) => {
                page.print(cx, &entry)?;
                cx.out.flush()?;
            }
            None => drop(feeds.remove(index)),
        }
    }
    Err(ended(cx))
}

/// Marks where a line was broken off for another one, and where it goes on.
pub(super) const BREAK: &str = "\u{2026}";

/// Whose line it is.
type Writer = (InstanceId, StreamName);

/// How lines are printed.
struct Page<'a> {
    prefixes: Prefixes,
    args: &'a Logs,
    /// The line that the next entry may go on with.
    open: Option<Writer>,
    /// Lines that were broken off for another one.
    broken: BTreeSet<Writer>,
}

impl<'a> Page<'a> {
    fn new(prefixes: Prefixes, args: &'a Logs) -> Self {
        Self {
            prefixes,
            args,
            open: None,
            broken: BTreeSet::new(),
        }
    }

    fn print(&mut self, cx: &mut Context<'_>, entry: &LogEntry) -> Result<(), Failure> {
        match self.args.output {
            TextOrJson::Json => {
                let json = serde_json::to_vec(entry).expect("a line has string keys only");
                cx.out.line(&json)?;
            }
            TextOrJson::Text => {
                let line = self.line(entry);
                cx.out.put_bytes(&line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, entry: &LogEntry) -> Vec<u8> {
        let writer = (entry.instance.clone(), entry.stream);
        let mut line = String::new();
        let open = self.open.take();
        if open.as_ref() != Some(&writer) {
            if let Some(other) = open {
                line.push_str(BREAK);
                line.push('\n');
                self.broken.insert(other);
            }
            line.push_str(&self.prefixes.of(entry));
            if self.args.timestamps {
                line.push_str(&paint(&entry.at, Tone::Dim, self.prefixes.style));
                line.push(' ');
            }
            if self.broken.remove(&writer) {
                line.push_str(BREAK);
            }
        }
        let mut line = line.into_bytes();
        if self.args.raw {
            line.extend_from_slice(&entry.bytes());
        } else {
            line.extend_from_slice(clean(&entry.text).as_bytes());
        }
        if entry.partial {
            self.open = Some(writer);
        } else {
            line.push(b'\n');
        }
        line
    }

    /// What ends the last line, where nothing else did.
    fn end(&mut self) -> &'static str {
        self.open.take().map_or("", |_| "\n")
    }
}

/// The beginnings of lines, which tell components apart.
struct Prefixes {
    style: Style,
    /// Whether lines need a beginning at all: one component alone needs none.
    is_shown: Shown,
    /// So wide that the lines stand under each other.
    width: usize,
    /// Colours in the order in which components were met.
    series: BTreeMap<String, usize>,
}

/// What of a name is needed to tell components apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Nothing, whoever writes.
    Never,
    Nothing,
    Component,
    PipelineToo,
}

impl Prefixes {
    fn new(wanted: &Wanted, style: Style) -> Self {
        let count: usize = wanted.values().map(BTreeSet::len).sum();
        let is_shown = match (wanted.len(), count) {
            (_, 0 | 1) => Shown::Nothing,
            (1, _) => Shown::Component,
            _ => Shown::PipelineToo,
        };
        let names = wanted.iter().flat_map(|(pipeline, components)| {
            components
                .iter()
                .map(move |id| prefix(is_shown, pipeline, id.as_str()))
        });
        let width = names.map(|name| name.len()).max().unwrap_or(0);
        // Colours by name, so that a component keeps its own from call to call.
        let series = wanted
            .iter()
            .flat_map(|(pipeline, ids)| ids.iter().map(move |id| format!("{pipeline}/{id}")))
            .enumerate()
            .map(|(n, name)| (name, n))
            .collect();
        Self {
            style,
            is_shown,
            width,
            series,
        }
    }

    fn of(&mut self, entry: &LogEntry) -> String {
        let is_alone = self.is_shown == Shown::Nothing && entry.replica == 0;
        if is_alone || self.is_shown == Shown::Never {
            return String::new();
        }
        let pipeline = PipelineKey {
            namespace: entry.namespace.clone(),
            name: entry.pipeline.clone(),
        };
        let replica = ReplicaKey {
            component: entry.component.clone(),
            replica: entry.replica,
        };
        let name = prefix(self.is_shown, &pipeline, &replica.to_string());
        self.width = self.width.max(name.len());
        let met = self.series.len();
        let series = *self
            .series
            .entry(format!("{pipeline}/{}", entry.component))
            .or_insert(met);
        let name = format!("{name:<width$}", width = self.width);
        format!("{} | ", paint(&name, Tone::Series(series), self.style))
    }
}

fn prefix(shown: Shown, pipeline: &PipelineKey, id: &str) -> String {
    match shown {
        Shown::Never | Shown::Nothing | Shown::Component => id.to_owned(),
        Shown::PipelineToo if pipeline.namespace == Namespace::default() => {
            format!("{}/{id}", pipeline.name)
        }
        Shown::PipelineToo => format!("{pipeline}/{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{LogLine, OutputStream};
    use clap::Parser;

    fn key(name: &str) -> PipelineKey {
        PipelineKey {
            namespace: Namespace::default(),
            name: name.parse().unwrap(),
        }
    }

    fn entry(pipeline: &str, id: &str, replica: u32, text: &str) -> LogEntry {
        let line = LogLine {
            at_nanos: 1_795_228_980_000_000_001,
            replica: ReplicaKey {
                component: id.parse().unwrap(),
                replica,
            },
            incarnation: 1,
            stream: OutputStream::Stdout,
            text: text.as_bytes().to_vec(),
            ends: true,
        };
        LogEntry::new(&key(pipeline), line)
    }

    fn page(words: &str, wanted: &[(&str, &[&str])], entries: &[LogEntry]) -> String {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            logs: Logs,
        }
        let words = std::iter::once("logs").chain(words.split_whitespace());
        let wanted = wanted
            .iter()
            .map(|(pipeline, ids)| {
                let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
                (key(pipeline), ids)
            })
            .collect();
        let args = Only::parse_from(words).logs;
        let mut page = Page::new(Prefixes::new(&wanted, Style::Plain), &args);
        let text: Vec<u8> = entries.iter().flat_map(|entry| page.line(entry)).collect();
        String::from_utf8(text).unwrap() + page.end()
    }

    #[test]
    fn one_component_is_printed_as_it_wrote() {
        let text = page("a", &[("p", &["a"])], &[entry("p", "a", 0, "hello")]);
        assert_eq!(text, "hello\n");
    }

    #[test]
    fn several_components_are_told_apart_in_columns() {
        let entries = [entry("p", "a", 0, "one"), entry("p", "long-name", 1, "two")];
        let text = page("", &[("p", &["a", "long-name"])], &entries);
        assert_eq!(text, "a         | one\nlong-name-1 | two\n");
        let entries = [entry("p", "a", 0, "one"), entry("q", "a", 0, "two")];
        let text = page("", &[("p", &["a"]), ("q", &["a"])], &entries);
        assert_eq!(text, "p/a | one\nq/a | two\n");
    }

    #[test]
    fn parts_of_a_line_become_one_line_and_where_they_cannot_that_is_marked() {
        let part = |id: &str, text: &str| LogEntry {
            partial: true,
            ..entry("p", id, 0, text)
        };
        let one: &[(&str, &[&str])] = &[("p", &["a"])];
        let entries = [part("a", "be"), part("a", "gi"), entry("p", "a", 0, "n")];
        assert_eq!(page("a", one, &entries), "begin\n");
        // Somebody waits for an answer.
        assert_eq!(page("a", one, &entries[..2]), "begi\n");
        let two: &[(&str, &[&str])] = &[("p", &["a", "b"])];
        let entries = [
            part("a", "be"),
            entry("p", "b", 0, "other"),
            part("a", "gi"),
            entry("p", "a", 0, "n"),
        ];
        let wanted = "a | be\u{2026}\nb | other\na | \u{2026}begin\n".replace("begin", "gin");
        assert_eq!(page("", two, &entries), wanted);
    }

    #[test]
    fn escapes_only_pass_when_they_are_asked_for() {
        let entries = [entry("p", "a", 0, "\x1b[31mred")];
        let wanted: &[(&str, &[&str])] = &[("p", &["a"])];
        assert_eq!(page("a", wanted, &entries), "\\u{1b}[31mred\n");
        assert_eq!(page("a --raw", wanted, &entries), "\x1b[31mred\n");
        assert_eq!(
            page("a --timestamps --raw", wanted, &entries),
            "2026-11-21T02:43:00.000000001Z \x1b[31mred\n"
        );
    }
}
