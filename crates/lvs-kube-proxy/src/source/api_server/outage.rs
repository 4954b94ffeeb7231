//! What is logged of an API server that does not do what it is asked: one line when that begins, one when
//! it ends. It has no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kube::{core::Status, runtime::watcher};

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server cannot be reached, does not know who asks, or fails: nothing else works either.
    Server(String),
    /// It refuses this one thing.
    Refused { code: u16, reason: String },
    /// A watch broke off. By itself that is what happens when a server is started again.
    BrokenOff(String),
    /// What the watch went on from is forgotten, and all is listed again: no failure.
    Expired,
}

/// What fails now.
#[derive(Debug)]
pub(super) struct Outage {
    server: String,
    /// Since when the server as a whole fails.
    begin: Option<Instant>,
    /// What is refused, and why.
    refused: BTreeMap<&'static str, String>,
    /// Watches that have said nothing since they broke off.
    broken: BTreeSet<&'static str>,
}

impl Outage {
    pub(super) fn new(server: String) -> Self {
        Self { server, begin: None, refused: BTreeMap::new(), broken: BTreeSet::new() }
    }

    /// Takes in that something failed. Returns what has to be logged.
    pub(super) fn fail(
        &mut self,
        what: &'static str,
        trouble: &Trouble,
        wait: Duration,
        now: Instant,
    ) -> Option<String> {
        let server = &self.server;
        let retry = format!("will retry in {} s", wait.as_secs_f64().ceil());
        match trouble {
            Trouble::Expired => None,
            Trouble::BrokenOff(_) if self.broken.insert(what) => None,
            Trouble::Server(reason) | Trouble::BrokenOff(reason) => {
                let is_new = self.begin.is_none();
                self.begin = self.begin.or(Some(now));
                is_new.then(|| {
                    format!(
                        "the API server {server} does not answer as it should: {reason}; what is known stays \
                         in use; {retry}"
                    )
                })
            }
            Trouble::Refused { code, reason } => {
                let before = self.refused.insert(what, reason.clone());
                (before.as_ref() != Some(reason)).then(|| {
                    format!("the API server {server} refuses {what}: {reason} ({code}); {retry}")
                })
            }
        }
    }

    /// Takes in that something was answered. Returns what has to be logged.
    pub(super) fn succeed(&mut self, what: &'static str, now: Instant) -> Option<String> {
        self.broken.remove(what);
        let was_refused = self.refused.remove(what).is_some();
        let server = &self.server;
        match self.begin.take() {
            Some(begin) => {
                let seconds = now.saturating_duration_since(begin).as_secs();
                Some(format!("the API server {server} answers again, after {seconds} s"))
            }
            None => was_refused.then(|| format!("the API server {server} gives {what} again")),
        }
    }
}

impl Trouble {
    pub(super) fn of_watch(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::WatchFailed(error) => Self::BrokenOff(innermost(error)),
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
                Self::of_request(error)
            }
            watcher::Error::NoResourceVersion => Self::Server(error.to_string()),
        }
    }

    pub(super) fn of_request(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            error => Self::Server(innermost(error)),
        }
    }

    fn of_status(status: &Status) -> Self {
        let code = status.code;
        let reason = match status.message.as_str() {
            "" => status.reason.clone(),
            message => message.replace('\n', " "),
        };
        match code {
            410 => Self::Expired,
            401 => Self::Server(format!(
                "it does not know who asks: {reason} (401); the kubeconfig's certificate or token is wrong or \
                 has expired"
            )),
            429 | 500.. => Self::Server(format!("{reason} ({code})")),
            _ => Self::Refused { code, reason },
        }
    }

    /// The HTTP status with which it was refused.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The last reason of all, in plain words.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match text {
        _ if text.contains("UnknownIssuer") => {
            "its certificate is not of the certificate authority that the kubeconfig names"
                .to_owned()
        }
        _ if text.contains("without sending TLS close_notify") => {
            "it broke off the connection".to_owned()
        }
        _ if text.contains("channel closed") || text.contains("connection closed") => {
            "it closed the connection".to_owned()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_line_for_one_outage() {
        let mut outage = Outage::new("https://api:6443/".to_owned());
        let start = Instant::now();
        let broken = Trouble::BrokenOff("it broke off the connection".to_owned());
        let gone = Trouble::Server("Connection refused".to_owned());
        let mut lines = Vec::new();
        for what in ["services", "endpoint slices", "this node"] {
            lines.extend(outage.fail(what, &broken, SECOND, start));
        }
        assert_eq!(lines, [""; 0], "a server that is started again");
        for times in 0..20 {
            for what in ["services", "endpoint slices", "this node"] {
                lines.extend(outage.fail(what, &gone, SECOND * 2, start + SECOND * times));
            }
        }
        assert_eq!(
            lines,
            [
                "the API server https://api:6443/ does not answer as it should: Connection refused; what is \
              known stays in use; will retry in 2 s"
            ]
        );
        let end = start + SECOND * 61;
        let line = outage.succeed("services", end);
        let expected = "the API server https://api:6443/ answers again, after 61 s";
        assert_eq!(line.as_deref(), Some(expected));
        assert_eq!(outage.succeed("this node", end), None);
        // The next one is another one.
        assert!(outage.fail("services", &gone, SECOND, end).is_some());
    }

    #[test]
    fn a_watch_that_breaks_off_again_and_again_is_said() {
        let mut outage = Outage::new("https://api:6443/".to_owned());
        let broken = Trouble::BrokenOff("it broke off the connection".to_owned());
        let now = Instant::now();
        assert_eq!(outage.fail("services", &broken, SECOND, now), None);
        assert!(outage.fail("services", &broken, SECOND, now).is_some());
        assert_eq!(outage.fail("services", &broken, SECOND, now), None);
    }

    #[test]
    fn what_is_refused_is_said_in_words() {
        let mut outage = Outage::new("https://api:6443/".to_owned());
        let now = Instant::now();
        let mut status =
            Status::failure("nodes is forbidden: User \"x\" cannot\nlist", "Forbidden");
        status.code = 403;
        let trouble = Trouble::of_status(&status);
        let line = outage.fail("this node", &trouble, SECOND, now).unwrap();
        assert_eq!(
            line,
            "the API server https://api:6443/ refuses this node: nodes is forbidden: User \"x\" cannot list \
             (403); will retry in 1 s"
        );
        assert_eq!(outage.fail("this node", &trouble, SECOND, now), None);
        assert!(outage.succeed("this node", now).unwrap().ends_with("gives this node again"));
        status.code = 410;
        assert_eq!(Trouble::of_status(&status), Trouble::Expired);
        status.code = 401;
        assert!(matches!(Trouble::of_status(&status), Trouble::Server(_)));
    }
}
