//! Which kernels are tried, in which order, and how each failed.

use crate::{
    architecture::Architecture,
    cause::Cause,
    error::{Error, ErrorKind},
    host::{cache, kernel, notes::Notes, processor, shim, uml::Uml, ways},
    options::{Kernel, Options},
};

/// The kernels that are tried if the user names none. Kernels of other Debian releases are used only if they
/// are in the cache already, such as in a directory copied from another machine.
const ORDER: [Kernel; 6] = [
    Kernel::Uml,
    Kernel::UmlTesting,
    Kernel::Uml6_12,
    Kernel::Uml6_1,
    Kernel::Uml5_10,
    Kernel::Qemu6_1,
];
/// Of these, the kernels that may be fetched.
const FETCHED: [Kernel; 3] = [Kernel::Uml, Kernel::UmlTesting, Kernel::Qemu6_1];
/// The file of notes in the cache.
const NOTES: &str = "bad-uml";

/// The kernels that remain to be tried.
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

    /// Whether this kernel was tried under another name.
    fn is_the_same(&self, kernel: Kernel) -> bool {
        let release_of = |kernel| kernel::release_of(self.options, kernel);
        self.tried.iter().any(|(tried, _)| release_of(*tried) == release_of(kernel))
    }

    /// Whether a kernel that the user did not name is worth trying.
    fn may_run(&self, kernel: Kernel, is_here: bool) -> bool {
        if kernel.is_qemu() {
            // If there is no other choice, its error says what is missing.
            return kernel::has_qemu() || !Architecture::has_uml_here();
        }
        if !Architecture::has_uml_here() {
            return false;
        }
        // A second fetch would fail as the first did.
        let cannot_fetch =
            |error: &Error| matches!(error, Error::Fetch { .. } | Error::Cache { .. });
        let may_fetch = FETCHED.contains(&kernel)
            && (kernel::can_fetch(self.options) || self.tried.is_empty())
            && !self.tried.iter().any(|(_, error)| cannot_fetch(error));
        is_here || may_fetch
    }

    /// Whether a cause that ended another kernel would end this one, too.
    fn meets_the_same(&self, kernel: Kernel, releases: &[String]) -> bool {
        !kernel.is_qemu() && ways::meets_the_same(&self.tried, releases)
    }

    /// Why a kernel would not start: because of this machine's processor, or from a note.
    fn known_bad(&self, kernel: Kernel, releases: &[String]) -> Option<String> {
        if kernel.is_qemu() {
            return None;
        }
        let is_old = releases.iter().any(|release| shim::is_old(release));
        if is_old && processor::has_amx() && !shim::is_used(self.options, releases) {
            return Some(format!("{}, and the shim for it is switched off", Cause::Registers));
        }
        let reason = self.notes.as_ref()?.find(&self.subject(kernel, releases))?;
        Some(format!("{reason} (noted earlier: it is tried again after this machine's next boot)"))
    }

    /// The subject of a note on a kernel: its release, with or without the shim, and what the process
    /// may do.
    fn subject(&self, kernel: Kernel, releases: &[String]) -> String {
        let with = if shim::is_used(self.options, releases) { "with" } else { "without" };
        let filters = processor::filters();
        format!("{kernel} {} {with} the shim, {filters}", releases.join(" "))
    }

    /// A kernel is starting the command. Notes those that crashed before it: they, and not this
    /// machine, are at fault. Once per boot, prints that this kernel is not the first choice.
    pub(super) fn begin(&self, kernel: Kernel) {
        let Some((first, error)) = self.tried.first() else { return };
        let say = || {
            let (drawback, reason) = (kernel.drawback(), error.reason());
            eprintln!(
                "guest: using the kernel {kernel}{drawback}, because {first} does not work: {reason}"
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
            notes.add(&words, "printed");
        }
    }

    /// Records why a kernel did not start the command. Returns the error to report, or `None` if another
    /// kernel may work.
    pub(super) fn failed(&mut self, kernel: Kernel, error: Error) -> Option<Error> {
        match &error {
            Error::Crash { cause: Some(cause), .. } if cause.is_machine_fault() => {
                self.left = Vec::new().into_iter();
            }
            Error::Crash { .. } | Error::NoModule { .. } => {}
            error if error.kind() == ErrorKind::NoKernel => {}
            _ => return Some(error),
        }
        self.tried.push((kernel, error));
        None
    }

    /// The error to report when no kernel is left.
    pub(super) fn into_error(self) -> Error {
        let here = ways::Here::look(self.options);
        let ways = ways::of(&here, &self.tried, self.options.memory);
        Error::NoGuest { tried: self.tried, ways }
    }
}

/// The start of the release of a kernel that is not in the cache.
fn known_release(options: &Options, kernel: Kernel) -> String {
    kernel::release_of(options, kernel).release().trim_end_matches('.').to_owned()
}
