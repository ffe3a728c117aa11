//! The unit by which systemd runs the daemon. The help topic `systemd` shows the one of a whole host.

use std::path::{Path, PathBuf};

/// The unit's name.
pub const NAME: &str = "flowctl.service";
/// Its first line where `flowctl install` wrote it. Another one is somebody else's.
pub const MARK: &str = "# Written by `flowctl install`. Change it by `systemctl edit`.";
/// Where the daemon of a whole host keeps its state.
pub const STATE: &str = "/var/lib/flowctl";

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The host's, which root manages.
    Host,
    /// A user's, which that user's own systemd manages.
    User,
}

impl Scope {
    /// What `systemctl` is told.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Host => &["--system"],
            Self::User => &["--user"],
        }
    }

    /// Where packages put units, which nobody else touches.
    pub fn of_packages(self) -> [PathBuf; 2] {
        let folders = match self {
            Self::Host => ["/usr/lib/systemd/system", "/lib/systemd/system"],
            Self::User => ["/usr/lib/systemd/user", "/lib/systemd/user"],
        };
        folders.map(|folder| Path::new(folder).join(NAME))
    }
}

/// The unit's text, for this program and state directory.
///
/// # Errors
/// With a path that is not UTF-8, which no unit can name.
pub fn text<'a>(scope: Scope, program: &'a Path, state: &'a Path) -> Result<String, &'a Path> {
    let (command, folder) = (quoted(program)?, quoted(state)?);
    let after = match scope {
        Scope::Host => "After=network-online.target\nWants=network-online.target\n",
        Scope::User => "",
    };
    // systemd makes the folder only below its own place for such.
    let made = if scope == Scope::Host && state == Path::new(STATE) {
        "StateDirectory=flowctl\nStateDirectoryMode=0700\n"
    } else {
        ""
    };
    // Only root may be spared by the kernel.
    let spared = match scope {
        Scope::Host => {
            "# When the host runs out of memory, others go first. Components have no part in it.\n\
             OOMScoreAdjust=-900\n"
        }
        Scope::User => "",
    };
    let wanted_by = match scope {
        Scope::Host => "multi-user.target",
        Scope::User => "default.target",
    };
    Ok(format!(
        "\
[Unit]
Description=flowctl, a controller for data pipelines
{after}\
# It is tried again for ever.
StartLimitIntervalSec=0

[Service]
# It says when it looks after all that ran before, and how things are: `systemctl status flowctl`.
Type=notify
NotifyAccess=main
ExecStart={command} daemon --state-dir {folder}
{made}\
# State that has to be rebuilt takes a while.
TimeoutStartSec=5min
# A daemon that hangs is ended; its components run on, and the next one takes them over.
WatchdogSec=60
# The daemon restarts without its components: only it is signalled, they run on.
KillMode=process
Restart=always
RestartSec=1
# One component that runs out of memory is no reason to stop the others.
OOMPolicy=continue
{spared}\
# Components may be given control groups below that of the unit, or beside it.
Delegate=yes
# The host's limits on the components, and not systemd's on a small service. The daemon raises its own
# number of open files to the second one; programs that use select() need the first.
TasksMax=infinity
LimitNOFILE=1024:524288

[Install]
WantedBy={wanted_by}
"
    ))
}

/// A word of a command line as systemd reads it: `%` and `$` mean something to it.
fn quoted(path: &Path) -> Result<String, &Path> {
    let text = path.to_str().ok_or(path)?;
    let mut word = String::new();
    for character in text.chars() {
        match character {
            '%' => word.push_str("%%"),
            '$' => word.push_str("$$"),
            '\\' | '"' => word.extend(['\\', character]),
            '\n' => word.push_str("\\n"),
            _ => word.push(character),
        }
    }
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@,=%$".contains(c);
    Ok(if word.chars().all(is_plain) {
        word
    } else {
        format!("\"{word}\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_unit_of_the_help_topic_is_the_one_that_is_installed() {
        let topic = include_str!("topics/systemd.md");
        let unit = text(
            Scope::Host,
            Path::new("/usr/local/bin/flowctl"),
            Path::new(STATE),
        )
        .unwrap();
        assert!(topic.contains(&format!("```ini\n{unit}```")), "{unit}");
    }

    #[test]
    fn a_user_s_unit_asks_for_nothing_that_only_root_may_have() {
        let unit = text(
            Scope::User,
            Path::new("/home/u/bin/flowctl"),
            Path::new("/home/u/.local/state/flowctl"),
        )
        .unwrap();
        for word in [
            "OOMScoreAdjust",
            "StateDirectory",
            "network-online",
            "multi-user",
        ] {
            assert!(!unit.contains(word), "{unit}");
        }
        assert!(unit.contains("WantedBy=default.target\n"), "{unit}");
    }

    #[test]
    fn a_path_means_to_systemd_what_it_means_to_us() {
        for (path, word) in [
            ("/usr/bin/flowctl", "/usr/bin/flowctl"),
            ("/srv/my state", "\"/srv/my state\""),
            ("/srv/100%/$HOME", "/srv/100%%/$$HOME"),
            ("/srv/a\"b\\c", "\"/srv/a\\\"b\\\\c\""),
            ("/srv/a;b", "\"/srv/a;b\""),
        ] {
            assert_eq!(quoted(Path::new(path)).unwrap(), word);
        }
        let latin = Path::new(std::ffi::OsStr::from_bytes(b"/opt/caf\xe9/flowctl"));
        assert_eq!(text(Scope::Host, latin, Path::new(STATE)), Err(latin));
    }
}
