//! Which kernels are tried, one after the other, and what came of each.

use crate::{
    architecture::Architecture,
    cause::Cause,
    error::{Error, ErrorKind},
    host::{cache, kernel, notes::Notes, processor, shim, uml::Uml, ways},
    options::{Kernel, Options},
};

/// What is tried where none is named. A kernel of Debian's other releases is taken only if it is here
/// already, as in a directory that was copied from another machine.
const ORDER: [Kernel; 6] = [
    Kernel::Uml,
    Kernel::UmlTesting,
    Kernel::Uml6_12,
    Kernel::Uml6_1,
    Kernel::Uml5_10,
    Kernel::Qemu6_1,
];
/// These may be fetched.
const FETCHED: [Kernel; 3] = [Kernel::Uml, Kernel::UmlTesting, Kernel::Qemu6_1];
/// In the directory of packages.
const NOTES: &str = "bad-uml";

/// The kernels that are left to be tried.
pub(super) struct Candidates<'a> {
    options: &'a Options,
    left: std::vec::IntoIter<Kernel>,
    tried: Vec<(Kernel, Error)>,
    notes: Option<Notes>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        let kernels = match (options.kernel, &options.uml) {
            (Some(kernel), _) => vec![kernel],
            (None, Some(_)) => vec![Kernel::Uml],
            (None, None) => ORDER.to_vec(),
        };
        let notes = cache::directory(options).ok().map(|cache| Notes::new(&cache, NOTES));
        Self { options, left: kernels.into_iter(), tried: Vec::new(), notes }
    }

    /// Whether the user named the kernel.
    fn is_named(&self) -> bool {
        self.options.kernel.is_some() || self.options.uml.is_some()
    }

    /// The next kernel that may run here.
    pub(super) fn next(&mut self) -> Option<Kernel> {
        while let Some(kernel) = self.left.next() {
            if self.is_named() {
                return Some(kernel);
            }
            let here = kernel::uml_here(self.options, kernel).filter(|_| !kernel.is_qemu());
            let releases = here
                .as_ref()
                .map_or_else(|| vec![known_release(self.options, kernel)], Uml::releases);
            if self.is_the_same(kernel)
                || !self.may_run(kernel, here.is_some())
                || self.meets_the_same(kernel, &releases)
            {
                continue;
            }
            match self.known_bad(kernel, &releases) {
                Some(reason) => self.tried.push((kernel, Error::Unfit { reason })),
                None => return Some(kernel),
            }
        }
        None
    }

    /// Whether it is one that was tried, by another name.
    fn is_the_same(&self, kernel: Kernel) -> bool {
        let release_of = |kernel| kernel::release_of(self.options, kernel);
        self.tried.iter().any(|(tried, _)| release_of(*tried) == release_of(kernel))
    }

    /// Whether trying a kernel that was not named costs nothing in vain.
    fn may_run(&self, kernel: Kernel, is_here: bool) -> bool {
        if kernel.is_qemu() {
            // Where it is all that there is, its error says what it lacks.
            return kernel::has_qemu() || !Architecture::has_uml_here();
        }
        if !Architecture::has_uml_here() {
            return false;
        }
        // What the first fetch met, the next one meets.
        let cannot_fetch =
            |error: &Error| matches!(error, Error::Fetch { .. } | Error::Cache { .. });
        let may_fetch = FETCHED.contains(&kernel)
            && (kernel::can_fetch(self.options) || self.tried.is_empty())
            && !self.tried.iter().any(|(_, error)| cannot_fetch(error));
        is_here || may_fetch
    }

    /// Whether what ended one that was tried would end this one, too.
    fn meets_the_same(&self, kernel: Kernel, releases: &[String]) -> bool {
        !kernel.is_qemu() && ways::meets_the_same(&self.tried, releases)
    }

    /// Why a kernel would not start: by this machine's processor, or as it was seen before.
    fn known_bad(&self, kernel: Kernel, releases: &[String]) -> Option<String> {
        if kernel.is_qemu() {
            return None;
        }
        let is_old = releases.iter().any(|release| shim::is_old(release));
        if is_old && processor::has_amx() && !shim::is_used(self.options, releases) {
            return Some(format!("{}, and the shim for it is not used", Cause::Registers));
        }
        let reason = self.notes.as_ref()?.find(&self.subject(kernel, releases))?;
        Some(format!("{reason} (seen before: it is tried again after this machine's next boot)"))
    }

    /// What is noted of a kernel holds for its release, with or without the shim, and for what the
    /// process may do.
    fn subject(&self, kernel: Kernel, releases: &[String]) -> String {
        let with = if shim::is_used(self.options, releases) { "with" } else { "without" };
        let filters = processor::filters();
        format!("{kernel} {} {with} the shim, {filters}", releases.join(" "))
    }

    /// A kernel starts the command. Takes note of those that crashed before it: they, and not this
    /// machine, are at fault. Says, once per boot, that it is not the first.
    pub(super) fn begin(&self, kernel: Kernel) {
        let Some((first, error)) = self.tried.first() else { return };
        let say = || {
            let (price, reason) = (kernel.price(), error.reason());
            eprintln!(
                "guest: the kernel {kernel} is taken{price}, for {first} is of no use: {reason}"
            );
        };
        let Some(notes) = &self.notes else { return say() };
        for (tried, error) in &self.tried {
            if matches!(error, Error::Crash { .. }) && !tried.is_qemu() {
                let here = kernel::uml_here(self.options, *tried);
                let releases = here.as_ref().map(Uml::releases).unwrap_or_default();
                notes.add(&self.subject(*tried, &releases), &error.reason());
            }
        }
        let words = format!("{kernel} for {first}, {}", processor::filters());
        if notes.find(&words).is_none() {
            say();
            notes.add(&words, "said");
        }
    }

    /// Takes in why a kernel did not come to start the command. Returns the error to report, or nothing
    /// if another kernel may do.
    pub(super) fn failed(&mut self, kernel: Kernel, error: Error) -> Option<Error> {
        match &error {
            Error::Crash { cause: Some(cause), .. } if cause.is_the_machines() => {
                self.left = Vec::new().into_iter();
            }
            Error::Crash { .. } | Error::NoModule { .. } => {}
            error if error.kind() == ErrorKind::NoKernel => {}
            _ => return Some(error),
        }
        self.tried.push((kernel, error));
        None
    }

    /// What to report when there is none left.
    pub(super) fn into_error(self) -> Error {
        let here = ways::Here::look(self.options);
        let ways = ways::of(&here, &self.tried, self.options.memory);
        Error::NoGuest { tried: self.tried, ways }
    }
}

/// How the release of a kernel begins that is not here.
fn known_release(options: &Options, kernel: Kernel) -> String {
    kernel::release_of(options, kernel).release().trim_end_matches('.').to_owned()
}
