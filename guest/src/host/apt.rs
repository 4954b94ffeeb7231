//! The texts that apt reads, and those that it prints.

use std::path::Path;

/// The keys of Debian's archive.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The percentage in one of apt's lines of progress.
pub(super) fn percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

/// How many bytes apt fetched, from its last lines: `Fetched 32.9 MB in 14s (2384 kB/s)`.
pub(super) fn fetched(printed: &str) -> u64 {
    let size = printed.lines().find_map(|line| {
        let mut words = line.strip_prefix("Fetched ")?.split(' ');
        let number: f64 = words.next()?.replace(',', "").parse().ok()?;
        let unit = match words.next()? {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return None,
        };
        Some((number * unit) as u64)
    });
    size.unwrap_or_default()
}

/// The sum of the sizes in apt's list of addresses: `'ADDRESS' FILE SIZE HASH`.
pub(super) fn download_size(addresses: &str) -> u64 {
    let sizes = addresses.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
    sizes.sum()
}

/// The sum of the unpacked sizes, in KiB, in descriptions of packages.
pub(super) fn installed_size(descriptions: &str) -> u64 {
    let sizes = descriptions
        .lines()
        .filter_map(|line| line.strip_prefix("Installed-Size: ")?.parse::<u64>().ok());
    sizes.sum::<u64>() * 1024
}

/// Advice for the user, if the fetching program's output makes the cause certain.
pub(super) fn remedy(
    program: &str,
    words: &str,
    proxy: Option<&str>,
    place: &Path,
    sources: &str,
) -> String {
    let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
    let by_proxy = match proxy {
        Some(proxy) => format!(
            "{program} uses the proxy {proxy} (from http_proxy or its configuration): check that it is \
             the right one, and up"
        ),
        None => {
            format!("If this machine needs a proxy, set http_proxy=http://HOST:PORT for {program}")
        }
    };
    if says(&["No space left", "Disk quota exceeded"]) {
        let place = place.display();
        format!(
            "There is no room in {place}: make some, or set LVS_GUEST_CACHE to another directory"
        )
    } else if says(&["407"]) {
        "The proxy asks for a password: set http_proxy=http://USER:PASSWORD@HOST:PORT".to_owned()
    } else if says(&["resolv", "bad address"]) {
        format!("No name server answered: run this again when the network is up. {by_proxy}")
    } else if says(&[" connect", "Connection ", "timed out", "unreachable", "Operation too slow"]) {
        format!("The server could not be reached: run this again when it can. {by_proxy}")
    } else {
        format!("Run this again when {program} can read {sources}")
    }
}

/// apt's lines for suites of Debian's archive, at the mirrors that this machine uses.
pub(super) fn source_lines(addresses: &str, suites: &[&str]) -> Option<String> {
    let keys =
        if Path::new(KEYRING).exists() { format!(" [signed-by={KEYRING}]") } else { String::new() };
    let mirror = mirror(addresses)?;
    // Without a source of security updates, the last point release has to do.
    let security = security_mirror(addresses);
    let lines = suites.iter().filter_map(|suite| {
        let mirror = if suite.ends_with("-security") { security? } else { mirror };
        Some(format!("deb{keys} {mirror} {suite} main\n"))
    });
    Some(lines.collect())
}

/// The mirror of Debian's archive that this machine uses, from the addresses that apt would fetch: it
/// has the other suites as well. It is the source that has a suite of updates; the machine's other
/// sources may belong to somebody else.
fn mirror(addresses: &str) -> Option<&str> {
    let sources = || {
        addresses
            .lines()
            .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
            .filter(|(mirror, _)| !mirror.contains("security"))
    };
    let updated = sources()
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-updates")));
    updated.or_else(|| sources().next()).map(|(mirror, _)| mirror)
}

/// The mirror of Debian's security updates that this machine uses.
fn security_mirror(addresses: &str) -> Option<&str> {
    addresses
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-security")))
        .map(|(mirror, _)| mirror)
}

/// apt's configuration, as a file, since apt's command line cannot empty a list. All that apt writes
/// goes below one directory; sources and keys are the machine's own.
pub(super) fn configuration(directory: &Path, architecture: &str) -> String {
    let directory = directory.display();
    format!(
        r#"#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
#clear Acquire::Languages;
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::State::lists "{directory}/lists";
Dir::Cache "{directory}";
Dir::Cache::archives "{directory}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages {{ "none"; }};
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_numbers_are_read() {
        assert_eq!(percent("dlstatus:12:52.4109:Retrieving file 12 of 15"), Some(52.4109));
        assert_eq!(percent("Get:1 http://mirror.example/debian sid InRelease [193 kB]"), None);
        assert_eq!(fetched("Get:1 x\nFetched 32.9 MB in 14s (2384 kB/s)\n"), 32_900_000);
        assert_eq!(fetched("Fetched 9,180 kB in 1s (9,000 kB/s)\n"), 9_180_000);
        assert_eq!(fetched("Hit:1 x\n"), 0);
        let addresses = "'http://m.example/a.deb' a.deb 12 SHA256:0\n'http://m.example/b' b 30 S\n";
        assert_eq!(download_size(addresses), 42);
        let descriptions = "Package: a\nInstalled-Size: 2\nSize: 9\n\nInstalled-Size: 3\n";
        assert_eq!(installed_size(descriptions), 5 * 1024);
    }

    #[test]
    fn packages_are_of_one_architecture() {
        let text = configuration(Path::new("/x"), "arm64");
        assert!(text.contains("APT::Architecture \"arm64\";\n"), "{text}");
        assert!(text.contains("APT::Architectures { \"arm64\"; };\n"), "{text}");
        assert!(!text.contains("amd64"), "{text}");
    }

    #[test]
    fn each_failure_has_its_remedy() {
        for (words, proxy, remedies) in [
            (
                "E: Write error - write (28: No space left on device)",
                None,
                vec!["/cache", "LVS_GUEST_CACHE"],
            ),
            (
                "Temporary failure resolving 'mirror.example'",
                None,
                vec!["name server", "http_proxy"],
            ),
            ("Could not connect to 10.0.0.1:80, connection timed out", None, vec!["reached"]),
            ("Unable to connect to p:3128:", Some("http://p:3128"), vec!["proxy http://p:3128"]),
            ("407  Proxy Authentication Required", Some("http://p"), vec!["USER:PASSWORD"]),
            ("NO_PUBKEY 0123456789ABCDEF", None, vec!["sources of packages"]),
        ] {
            let text = remedy("apt", words, proxy, Path::new("/cache"), "its sources of packages");
            for remedy in remedies {
                assert!(text.contains(remedy), "{remedy} in {text}");
            }
        }
    }

    #[test]
    fn the_mirror_is_the_one_with_updates() {
        let line = |address: &str| format!("'{address}/InRelease' file_InRelease 0 \n");
        let other = line("https://other.example/linux/debian/dists/stable");
        let security = line("http://mirror.example/debian-security/dists/bookworm-security");
        let main = line("http://mirror.example/debian/dists/bookworm");
        let updates = line("http://mirror.example/debian/dists/bookworm-updates");
        let all = format!("{other}{security}{main}{updates}");
        assert_eq!(mirror(&all), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&format!("{security}{main}")), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&security), None);
        assert_eq!(security_mirror(&all), Some("http://mirror.example/debian-security"));
        assert_eq!(security_mirror(&main), None);
        assert_eq!(mirror("nonsense\n'/dists\n"), None);
    }
}
