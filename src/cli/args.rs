//! What can be typed. Nothing but clap, and the words that only clap needs.

mod beside;
mod control;
mod image;
mod kubernetes;
mod logs;
mod manifest;
mod moment;
mod notifications;
mod screen;
mod setup;
mod status;
mod steer;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::engine::Engine;
use crate::api::{MetricsForm, Orchestrator};
use crate::daemon::OtlpEndpoint;
use crate::model::{HumanDuration, Namespace};
use crate::telemetry::LogFormat;
pub use beside::{Bundle, Doctor, Env, Exec, Shell};
pub use control::{Components, ComponentsVerb, ControlPlane, Pair, Remote, Seek};
pub use image::{Image, ImageVerb};
pub use kubernetes::{Kubernetes, KubernetesVerb};
pub use logs::{LeastLevel, Logs, Sieve};
pub use manifest::{Explain, Graph, GraphFormat, Render, RenderFormat};
pub use moment::{Moment, NoSuchMoment};
pub use notifications::{Notify, NotifyVerb};
pub use screen::{Ui, Web};
pub use setup::{Complete, Completion, Help, Init, Install, Man, Uninstall, Version};
pub use status::{CheckHow, Status};
pub use steer::{Delete, Restart, Steer, Wait, WaitFor};

/// Runs data pipelines unattended: declared in a file, kept as declared.
///
/// A pipeline is a YAML file of sources, processors and sinks. `apply` hands it to a daemon that
/// keeps what runs equal to what the file says: it starts, stops and restarts the least it must,
/// and can tell you why.
#[derive(Debug, Parser)]
#[command(
    name = "flowctl",
    version,
    propagate_version = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Start with:\n  \
        flowctl init                            write a commented pipeline.yaml\n  \
        flowctl apply -f pipeline.yaml --wait   run it\n  \
        flowctl status                          see it\n  \
        flowctl why COMPONENT                   understand it\n  \
        flowctl down                            end everything"
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where the daemon keeps its state [default: ./state if it is marked as flowctl's, else
    /// /var/lib/flowctl if it is in use and you may look into it, else $XDG_STATE_HOME/flowctl, else ~/.local/state/flowctl]
    #[arg(
        long,
        global = true,
        env = "FLOWCTL_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub state_dir: Option<PathBuf>,

    /// Only pipelines of this namespace; for `apply`, the namespace of files that name none
    #[arg(
        long,
        short = 'n',
        global = true,
        env = "FLOWCTL_NAMESPACE",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub namespace: Option<Namespace>,

    /// Colours: `auto` = on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        env = "FLOWCTL_COLOR",
        hide_env_values = true,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub color: When,

    /// What the daemon logs about itself, like `info` or `flowctl=debug,sled=warn`
    #[arg(
        long,
        global = true,
        env = "FLOWCTL_LOG",
        hide_env_values = true,
        value_name = "FILTER"
    )]
    pub log: Option<String>,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make pipelines run as their files say, now and after each save
    Apply(Apply),
    /// Show what `apply` would change; exits 1 if anything would
    Diff(Diff),
    /// Check pipeline files without running anything
    Validate(Validate),
    /// Draw what reads from what, and what waits for what
    Graph(Graph),
    /// Print the objects that a cluster would be sent
    Render(Render),
    /// Run one pipeline in the foreground and leave nothing behind
    Run(Run),
    /// Show what is running, since when, and why
    Status(Status),
    /// Show which components have registered with the control plane, and what they told
    #[command(name = "registry", alias = "components")]
    Components(Components),
    /// Show everything about a pipeline or a component on one screen
    Describe(Describe),
    /// Tell why a component is in the state it is in, and what happens next
    Why(Why),
    /// Show what happened
    Events(Events),
    /// Show who is told of what is wrong, and try whether that works
    Notify(Notify),
    /// Tell which images may run, and why
    Image(Image),
    /// Show what components wrote
    Logs(Logs),
    /// Run a program with what a component has around it: variables, folder, user
    Exec(Exec),
    /// The same with a shell
    Shell(Shell),
    /// Show the variables that a component was given
    Env(Env),
    /// Show what components use: processor, memory, processes, open files
    Top(Top),
    /// Show all of it at a glance, and steer it, in the terminal
    #[command(alias = "dashboard")]
    Ui(Ui),
    /// Show the same in a browser; the daemon has no door for that, this is one
    Web(Web),
    /// Print what scrapers read, once
    Metrics(Metrics),
    /// Start a component that was stopped, failed or waits
    Start(Steer),
    /// Stop a component; it stays down until `start`, over daemon restarts too
    Stop(Steer),
    /// Replace a component's instances with new ones
    Restart(Restart),
    /// Wait until pipelines or components are ready, or otherwise as you say
    Wait(Wait),
    /// Take pipelines down and forget them
    Delete(Delete),
    /// Take everything down and end the daemon
    Down(Down),
    /// Run the daemon in the foreground, as a service manager does
    #[command(alias = "server")]
    Daemon(Daemon),
    /// Print what a cluster needs for flowctl to run in it
    Kubernetes(Kubernetes),
    /// Have systemd run the daemon, from now on and at each boot
    Install(Install),
    /// Take back what `install` did; components run on
    Uninstall(Uninstall),
    /// Write a commented starter file
    Init(Init),
    /// Tell what a field of the manifest takes, and what an edit of it costs
    Explain(Explain),
    /// Print the JSON Schema of the manifest, for editors
    Schema,
    /// Tell what of this host, its daemon and its state makes trouble, and what to do
    Doctor(Doctor),
    /// Write an archive for whoever is asked for help, without secrets
    Bundle(Bundle),
    /// Tell the versions of this program and of the daemon
    Version(Version),
    /// Show this, a command, or a topic
    Help(Help),
    /// Print a completion script for a shell
    Completion(Completion),
    /// Write manual pages into a folder, for packages
    #[command(hide = true)]
    Man(Man),
    /// Tell what the last word of a command line may become, for completion scripts
    #[command(name = "__complete", hide = true)]
    Complete(Complete),
}

/// Which files.
#[derive(Clone, Debug, Args)]
pub struct Files {
    /// A file, a folder of `.yaml`/`.yml` files, or `-` for standard input; may be repeated. A pipe,
    /// such as `<(...)`, is read once and not watched
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    pub file: Vec<PathBuf>,
    /// The same without `-f`
    #[arg(value_name = "FILE")]
    pub more: Vec<PathBuf>,
}

impl Files {
    /// All of them in the order given.
    pub fn all(&self) -> Vec<PathBuf> {
        self.file.iter().chain(&self.more).cloned().collect()
    }
}

/// Whether and how long to wait.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// Return as soon as the daemon has recorded the request
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait at most; `0s` = without end. Exits 5 when it is over
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: HumanDuration,
}

/// `flowctl apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl apply -f pipeline.yaml          apply, and go on applying each save\n  \
    flowctl apply -f pipelines/ --wait      wait until all of it runs; exit 8 if something fails\n  \
    flowctl apply -f p.yaml --dry-run       only show what would change\n\n\
    A daemon is started in the background if none answers. Without --wait the command returns once\n\
    the change is recorded; the daemon carries it out. Only what changed is restarted.")]
pub struct Apply {
    /// Which files.
    #[command(flatten)]
    pub files: Files,
    /// Show what would change, field by field, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until everything runs and is ready, or one component has failed for good (exit 8)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as the change is recorded (the default)
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// With --wait: how long at most; `0s` = without end. Exits 5 when it is over
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: HumanDuration,
    /// Apply once; later saves of the file change nothing
    #[arg(long)]
    pub no_watch: bool,
    /// Go on although the preflight found something that will not work
    #[arg(long)]
    pub force: bool,
    /// Where components run whose file leaves that open
    #[arg(long, value_name = "WHERE")]
    pub orchestrator: Option<Where>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl diff`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl diff -f pipeline.yaml\n  \
    flowctl diff -f pipeline.yaml && echo nothing to do")]
pub struct Diff {
    /// Which files.
    #[command(flatten)]
    pub files: Files,
    /// Where components run whose file leaves that open
    #[arg(long, value_name = "WHERE")]
    pub orchestrator: Option<Where>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl validate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl validate pipeline.yaml\n  \
    flowctl validate -o json pipelines/\n\n\
    All problems of all files are told at once, each with its line and what to write instead.\n\
    Exits 3 if there is any; a warning is none, unless --deny-warnings says so.")]
pub struct Validate {
    /// Which files.
    #[command(flatten)]
    pub files: Files,
    /// Where components run whose file leaves that open
    #[arg(long, value_name = "WHERE")]
    pub orchestrator: Option<Where>,
    /// Exit with 3 if there is a warning, too
    #[arg(long)]
    pub deny_warnings: bool,
    /// Warn of images that this file does not let run
    #[arg(
        long,
        env = "FLOWCTL_IMAGE_POLICY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub image_policy: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl run pipeline.yaml\n  \
    flowctl run --orchestrator container flow.yml\n\n\
    Starts in order, each component gated by the health of what it depends on, and shows their\n\
    output. The first Ctrl+C stops everything in reverse order with grace (exit 0), the second\n\
    kills at once (exit 130), a third ends the run although something cannot be killed, as when\n\
    its engine is away, and says what (exit 130). If a component fails to start,\n\
    everything is stopped (exit 8). To close the terminal is a first Ctrl+C.")]
pub struct Run {
    /// The pipeline's file [default: flow.yml, then pipeline.yaml]
    pub file: Option<PathBuf>,
    /// Where components run whose file leaves that open
    #[arg(
        long,
        env = "FLOWCTL_ORCHESTRATOR",
        hide_env_values = true,
        value_name = "WHERE"
    )]
    pub orchestrator: Option<Where>,
    /// Leave the components' logs where they are when the run ends
    #[arg(long)]
    pub keep_logs: bool,
    /// How long the start of everything may take; `0s` = without end
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: HumanDuration,
    /// Go on although the preflight found something that will not work
    #[arg(long)]
    pub force: bool,
    /// Options of the control plane.
    #[command(flatten)]
    pub control_plane: ControlPlane,
    /// Options of the container engine.
    #[command(flatten)]
    pub engine: Engine,
}

/// `flowctl describe`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl describe ttp\n  \
    flowctl describe ttp/ledger-source")]
pub struct Describe {
    /// A pipeline, or a component as [PIPELINE/]COMPONENT
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl why`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    flowctl why ttp-processor")]
pub struct Why {
    /// Which component
    #[arg(value_name = "[PIPELINE/]COMPONENT")]
    pub component: String,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl events`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl events --tail 20\n  \
    flowctl events ttp/ledger-source -f\n  \
    flowctl events --since 1h -o json")]
pub struct Events {
    /// Only of this pipeline or component
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only of pipelines that are there and bear this label; may be repeated
    #[arg(
        long = "label",
        short = 'l',
        value_name = "KEY=VALUE",
        conflicts_with = "name"
    )]
    pub labels: Vec<Pair>,
    /// Go on with what happens from now on
    #[arg(long, short)]
    pub follow: bool,
    /// Only what happened since: a time ago (`10m`) or a moment (`2026-11-21T02:00:00Z`)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<Moment>,
    /// Only the last so many [default: all; 50 on a terminal, where nothing else says which]
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// All that is kept, on a terminal too
    #[arg(long, conflicts_with = "tail")]
    pub all: bool,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// `flowctl top`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl top\n  \
    flowctl top ttp -s mem\n  \
    flowctl top --once -o json | jq '.pipelines[].components[].replicas[].usage'\n\n\
    CPU is in cores: 0.50 is half of one. Nothing is measured while nobody asks.")]
pub struct Top {
    /// Only these pipelines
    #[arg(value_name = "PIPELINE")]
    pub pipelines: Vec<String>,
    /// What uses most of this comes first
    #[arg(long, short, value_name = "WHAT", default_value = "cpu")]
    pub sort: Resource,
    /// Show it once instead of every two seconds
    #[arg(long)]
    pub once: bool,
    /// How to print the answer; JSON is that of `status`
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
}

/// By what `top` sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Memory.
    Mem,
}

/// `flowctl metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowctl metrics | grep replica_ready\n  \
    flowctl metrics > /var/lib/node_exporter/flowctl.prom.$$ && mv ...   for its textfile collector\n\n\
    Without a daemon it tells what is there, and nothing of what a daemon counts.\n\
    A daemon answers scrapers with the same: `GET /metrics` on its socket, and at\n\
    `flowctl daemon --metrics-address`.")]
pub struct Metrics {
    /// In which form
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: MetricsFormat,
}

/// The forms of `metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricsFormat {
    /// Prometheus' text format, which promtool and node_exporter read too.
    Text,
    /// OpenMetrics 1.0.
    Openmetrics,
}

impl From<MetricsFormat> for MetricsForm {
    fn from(format: MetricsFormat) -> Self {
        match format {
            MetricsFormat::Text => Self::Classic,
            MetricsFormat::Openmetrics => Self::OpenMetrics,
        }
    }
}

/// `flowctl down`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a daemon it takes the state directory over and ends what belongs to it.\n\
    Ctrl+C (exit 130) ends only the wait for a daemon. Without one nobody goes on, until it is\n\
    repeated."
)]
pub struct Down {
    /// Only these pipelines, as `delete` takes them down; the daemon goes on
    #[arg(value_name = "PIPELINE")]
    pub pipelines: Vec<String>,
    /// Do not ask, although more than one pipeline ends
    #[arg(long, short)]
    pub yes: bool,
    /// How to print the answer
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: TextOrJson,
    /// Remove the named volumes of containers too, with their data. Without it they are kept
    #[arg(long)]
    pub volumes: bool,
    /// How long to wait at most; `0s` = without end. Exits 5 when it is over
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: HumanDuration,
}

/// `flowctl daemon`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "SIGTERM and Ctrl+C end the daemon and leave components running; the next one\n\
    takes them over. `flowctl down` ends both. There is one daemon per state directory."
)]
pub struct Daemon {
    /// What to do with the one that runs.
    #[command(subcommand)]
    pub verb: Option<DaemonVerb>,
    /// How the log is written
    #[arg(
        long,
        env = "FLOWCTL_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub log_format: LogForm,
    /// Options of the control plane.
    #[command(flatten)]
    pub control_plane: ControlPlane,
    /// Options of the container engine.
    #[command(flatten)]
    pub engine: Engine,
    /// How long logs are kept of what is deleted; `0s` = not at all
    #[arg(
        long,
        env = "FLOWCTL_KEEP_LOGS",
        hide_env_values = true,
        value_name = "TIME",
        default_value = "7d"
    )]
    pub keep_logs: HumanDuration,
    /// Answer scrapers there with the metrics, to whoever can reach it. The socket always does
    #[arg(
        long,
        env = "FLOWCTL_METRICS_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS:PORT"
    )]
    pub metrics_address: Option<std::net::SocketAddr>,
    /// Tell components that set none that a collector of OpenTelemetry is there, and what they are
    /// called to it
    #[arg(
        long,
        env = "FLOWCTL_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// The file that says who is told of what is wrong [default: notify.yaml in the state directory]
    #[arg(
        long,
        env = "FLOWCTL_NOTIFY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub notify: Option<PathBuf>,
    /// Keep nothing: whatever the state directory is, state goes to a folder of its own, which is
    /// removed at the end
    #[arg(long)]
    pub no_persistence: bool,
    /// Leave the session of whoever started it
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// What can be done with a daemon that runs.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DaemonVerb {
    /// Have it go on as the program that is installed now, in its process; components run on
    Restart {
        /// How long it may take until it answers again
        #[arg(long, value_name = "TIME", default_value = "1m")]
        timeout: HumanDuration,
    },
}

/// Where components run whose file leaves that open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// As local processes.
    #[value(alias = "local")]
    Process,
    /// As containers.
    #[value(alias = "docker")]
    Container,
}

impl From<Where> for Orchestrator {
    fn from(place: Where) -> Self {
        match place {
            Where::Process => Self::Process,
            Where::Container => Self::Container,
        }
    }
}

/// Text for people or JSON for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextOrJson {
    /// For people.
    Text,
    /// For programs; streams are one object a line.
    Json,
}

/// The forms of `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// A line per replica, as wide as the terminal.
    Table,
    /// The same with all columns, as wide as they need.
    Wide,
    /// `flowctl.status/v1`.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How the daemon's log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// A line of text for each.
    Human,
    /// A JSON object a line.
    Json,
}

impl From<LogForm> for LogFormat {
    fn from(form: LogForm) -> Self {
        match form {
            LogForm::Human => Self::Human,
            LogForm::Json => Self::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_form_is_understood() {
        for line in [
            "apply -f p.yaml --wait --timeout 30s --no-watch --force",
            "apply p.yaml --no-wait --dry-run",
            "diff -f -",
            "validate a.yaml b.yaml -o json",
            "run --orchestrator docker --keep-logs",
            "status -o wide --check",
            "status --watch -o json",
            "status --check=nagios -l team=data ttp",
            "stop -l team=data -o json",
            "notify test on-call -o json",
            "why ttp/source",
            "image check nginx:1 --image-policy images.yaml -o json",
            "image verify nginx:1",
            "image pin p.yaml",
            "events -f -o json",
            "logs a b -f --since 10m --tail 100 --timestamps",
            "logs --grep x -i -v -A 1 -B 2 --level warning --field a.b=1 --exclude p/a --no-prefix",
            "logs --path a",
            "logs a --all",
            "events --all",
            "delete -f p.yaml",
            "down ttp",
            "down --yes",
            "status ttp/sink --phase running --phase crashloop",
            "components list --output json",
            "components find --output T",
            "registry find --writes T --reads U",
            "status --server h:1",
            "logs a --previous --raw --until 2026-11-21T02:00:00Z",
            "restart ttp/a --no-wait",
            "delete ttp --timeout 10s",
            "server --control-plane-port 0",
            "exec ttp/sink.2 -e A=1 -- ls -l",
            "exec sink ls -l",
            "shell sink",
            "env sink --show-values -o json",
            "doctor --strict",
            "bundle -o x.tar --force",
            "daemon restart",
            "help",
            "help status-json",
            "help components list",
            "completion zsh",
            "install --user --now",
            "explain component.probes --recursive",
            "explain",
            "schema",
            "graph -f p.yaml -o mermaid",
            "version -o json",
            "wait ttp ttp/sink --for stopped --timeout 10s",
            "validate --deny-warnings p.yaml",
            "init --schema",
            "install --print",
            "uninstall --user",
            "status --state-dir /tmp/x --color never",
            "ui --read-only",
            "web --listen 127.0.0.1:4000 --allow-control --host flow.example",
            "dashboard",
        ] {
            let words = std::iter::once("flowctl").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    /// The text of every source file of this crate.
    fn sources() -> Vec<String> {
        let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut texts = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    texts.push(std::fs::read_to_string(path).unwrap());
                }
            }
        }
        texts
    }

    #[test]
    fn every_command_that_a_message_tells_to_run_exists() {
        use clap::error::ErrorKind;
        let mut seen = 0;
        for text in sources() {
            let quoted = text.split("`flowctl ").skip(1);
            let commands = quoted.filter_map(|rest| rest.split_once('`'));
            for (command, _) in commands.filter(|(command, _)| !command.contains('\n')) {
                // What a shell hands on is not flowctl's.
                let own = command.split(" | ").next().unwrap_or(command);
                let words = std::iter::once("flowctl").chain(own.split_whitespace());
                let kind = Cli::try_parse_from(words).err().map(|error| error.kind());
                let unknown = [ErrorKind::InvalidSubcommand, ErrorKind::UnknownArgument];
                assert!(
                    kind.is_none_or(|kind| !unknown.contains(&kind)),
                    "{command}"
                );
                seen += 1;
            }
        }
        assert!(seen > 20, "messages name commands between backticks");
    }
}
