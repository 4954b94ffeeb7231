//! The program lvs-director on a real kernel: health, the file, roles, rights, and its end by any signal.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipvs_client::blocking;
use ipvs_table::Rules;
use kernel_tests::{Outcome, block_on, fresh_namespace, needing};
use libtest_mimic::{Failed, Trial};
use netns_link::{NetNs, blocking::Links};
use tempfile::TempDir;

use crate::{director_cases::Server, part, table_cases::run};

/// How long something may take to be seen.
const LIMIT: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_lvs-director-in-tests");

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let setpriv = ("setpriv", "util-linux");
    vec![
        Trial::test("lvs_director_health", health),
        Trial::test("lvs_director_file", file),
        Trial::test("lvs_director_killed", killed),
        Trial::test("lvs_director_role", role),
        Trial::test("lvs_director_drains_at_its_end", drains),
        needing(&[setpriv], Trial::test("lvs_director_least_rights", least_rights)),
        Trial::test("lvs_director_once_and_dry_run", once_and_dry_run),
    ]
}

/// A director with its own namespace, in which servers are, too.
struct Scene {
    namespace: NetNs,
    client: blocking::Client,
    directory: TempDir,
}

impl Scene {
    fn new() -> Result<Self, Failed> {
        let namespace = block_on(fresh_namespace())?;
        let links = Links::connect(&namespace)?;
        let lo = links.find("lo")?.ok_or("no lo")?;
        for address in ["10.1.0.1/32", "10.1.0.2/32"] {
            links.add_address(&lo, address.parse()?)?;
        }
        let client = blocking::Client::connect_in(&namespace)?;
        Ok(Self { namespace, client, directory: tempfile::tempdir()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self, address: &str) -> Result<Server, Failed> {
        Server::start(&self.namespace, address)
    }

    /// Writes the file as editors do.
    fn write(&self, text: &str) -> Outcome {
        fs::write(self.path("new"), text)?;
        fs::rename(self.path("new"), self.path("file"))?;
        Ok(())
    }

    fn start(&self) -> Result<Director, Failed> {
        self.start_by(&[])
    }

    /// Starts it, by another program if one is named.
    fn start_by(&self, by: &[&str]) -> Result<Director, Failed> {
        let mut words: Vec<String> = by.iter().map(|word| (*word).to_owned()).collect();
        words.extend([PROGRAM.to_owned(), "run".to_owned()]);
        words.push(self.path("file").display().to_string());
        words.push(format!("--state-dir={}", self.path("state").display()));
        words.push(format!("--socket={}", self.path("socket").display()));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let mut command = Process::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Director(self.namespace.spawn(&mut command)?))
    }

    /// Another command to the director that runs.
    fn ask(&self, words: &[&str]) -> Result<(i32, String), Failed> {
        let socket = format!("--socket={}", self.path("socket").display());
        let words: Vec<&str> = words.iter().copied().chain([&socket[..]]).collect();
        let output = run(&self.namespace, PROGRAM, &words, "")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    }

    fn table(&self) -> Result<String, Failed> {
        Ok(Rules::from(&self.client.snapshot()?).to_string())
    }

    /// Waits until something is so.
    fn until(&self, what: &str, mut is: impl FnMut() -> Result<bool, Failed>) -> Outcome {
        let begun = Instant::now();
        while !is()? {
            if begun.elapsed() > LIMIT {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                let (_, status) = self.ask(&["status"])?;
                return Err(format!("not seen: {what}\n{}\n{status}\n{log}", self.table()?).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until the table holds these lines, and not those.
    fn sees(&self, there: &[&str], not_there: &[&str]) -> Outcome {
        self.until(&format!("{there:?} and not {not_there:?}"), || {
            let table = self.table()?;
            Ok(there.iter().all(|line| table.contains(line))
                && !not_there.iter().any(|line| table.contains(line)))
        })
    }

    fn says(&self, words: &str) -> Outcome {
        self.until(&format!("status: {words:?}"), || Ok(self.ask(&["status"])?.1.contains(words)))
    }

    fn has_address(&self, address: &str) -> Result<bool, Failed> {
        let all = Links::connect(&self.namespace)?.all_addresses()?;
        Ok(all.values().flatten().any(|it| it.ip().to_string() == address))
    }
}

/// The process, which ends with the case.
struct Director(Child);

impl Director {
    fn signal(&self, name: &str) -> Outcome {
        let status = Process::new("kill").args([name, &self.0.id().to_string()]).status()?;
        assert!(status.success());
        Ok(())
    }

    fn end(mut self, name: &str) -> Result<Option<i32>, Failed> {
        self.signal(name)?;
        Ok(self.0.wait()?.code())
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WEB: &str = "
addresses: [{address: 10.0.0.1}]
defaults: {check: {tcp: {}, interval: 200ms, timeout: 200ms, rise: 1, fall: 1}}
services:
  - name: web
    address: 10.0.0.1
    port: 80
    scheduler: wrr
    servers:
      - {address: 10.1.0.1, weight: 3}
      - 10.1.0.2
";
const FIRST: &str = "-r 10.1.0.1:80 -m -w 3";
const SECOND: &str = "-r 10.1.0.2:80 -m -w 1";
const SECOND_DOWN: &str = "-r 10.1.0.2:80 -m -w 0";
const FOREIGN: &str = "-A -t 10.0.0.9:80 -s rr";

fn foreign(scene: &Scene) -> Outcome {
    let key = FOREIGN[3..21].trim().trim_end_matches(" -s").parse()?;
    let mut service = ipvs_client::packet::Service::new(key);
    service.scheduler = ipvs_client::packet::SchedulerName::RR;
    scene.client.add_service(&service)?;
    Ok(())
}

/// Servers go and come back; people take them out; what others made stays.
fn health() -> Outcome {
    let scene = Scene::new()?;
    foreign(&scene)?;
    scene.write(WEB)?;
    let _first = scene.server("10.1.0.1:80")?;
    let second = scene.server("10.1.0.2:80")?;
    let director = scene.start()?;
    scene.sees(&["-A -t 10.0.0.1:80 -s wrr", FIRST, SECOND, FOREIGN], &[])?;
    scene.until("the address", || scene.has_address("10.0.0.1"))?;
    drop(second);
    scene.sees(&[FIRST, SECOND_DOWN], &[])?;
    scene.says("connection refused")?;
    let _second = scene.server("10.1.0.2:80")?;
    scene.sees(&[FIRST, SECOND], &[])?;
    assert_eq!(scene.ask(&["drain", "10.1.0.1:80"])?.0, 0);
    scene.sees(&["-r 10.1.0.1:80 -m -w 0", SECOND], &[])?;
    assert_eq!(scene.ask(&["maintain", "10.1.0.1", "--service=web"])?.0, 0);
    scene.sees(&[SECOND], &["10.1.0.1:80"])?;
    assert_eq!(scene.ask(&["enable", "10.1.0.1:80"])?.0, 0);
    scene.sees(&[FIRST, SECOND], &[])?;
    assert_eq!(scene.ask(&["weight", "10.1.0.1:80", "34"])?.0, 0);
    scene.sees(&["-r 10.1.0.1:80 -m -w 1", SECOND], &[])?;
    let (status, text) = scene.ask(&["drain", "10.9.9.9:80"])?;
    assert!(status == 1 && text.contains("no service has a member"), "{status} {text}");
    // Left in place, and found again.
    assert_eq!(director.end("-TERM")?, Some(0));
    scene.sees(&["-r 10.1.0.1:80 -m -w 1", SECOND, FOREIGN], &[])?;
    assert!(scene.has_address("10.0.0.1")?);
    Ok(())
}

/// A changed file is followed, one with mistakes changes nothing, and what is no file does not stop it.
fn file() -> Outcome {
    let scene = Scene::new()?;
    foreign(&scene)?;
    scene.write(WEB)?;
    let _first = scene.server("10.1.0.1:80")?;
    let _second = scene.server("10.1.0.2:80")?;
    let director = scene.start()?;
    scene.sees(&[FIRST, SECOND], &[])?;
    let more =
        format!("{WEB}  - {{address: 10.0.0.1, port: 81, servers: [10.1.0.1], check: none}}\n");
    scene.write(&more)?;
    scene.sees(&[FIRST, SECOND, "-A -t 10.0.0.1:81", "-r 10.1.0.1:81"], &[])?;
    let path = scene.path("file");
    let file = path.display().to_string();
    for what in ["mistakes", "half", "directory", "fifo", "gone"] {
        let expected = match what {
            "mistakes" => {
                scene.write("services: [{address1: 10.0.0.1}]")?;
                "\"address\"?"
            }
            "half" => {
                scene.write(&more[..more.len() - 20])?;
                "line "
            }
            "directory" => {
                fs::remove_file(&path)?;
                fs::create_dir(&path)?;
                "it is not a file"
            }
            "fifo" => {
                fs::remove_dir(&path)?;
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
                director.signal("-HUP")?;
                "it is not a file"
            }
            _ => {
                fs::remove_file(&path)?;
                director.signal("-HUP")?;
                "No such file"
            }
        };
        scene.until(&format!("{what}: {expected}"), || {
            let status = scene.ask(&["status"])?.1;
            Ok(status.contains("not in effect")
                && status.contains(expected)
                && status.contains(&file))
        })?;
        scene.sees(&[FIRST, SECOND, "-r 10.1.0.1:81", FOREIGN], &[])?;
    }
    scene.write(WEB)?;
    scene.sees(&[FIRST, SECOND, FOREIGN], &["10.0.0.1:81"])?;
    scene.until("no mistakes", || Ok(!scene.ask(&["status"])?.1.contains("not in effect")))?;
    Ok(())
}

/// After SIGKILL at any moment the next start mends: what it made goes with the file, what was known to be
/// dead gets no traffic, and what others made stays.
fn killed() -> Outcome {
    let scene = Scene::new()?;
    foreign(&scene)?;
    let _first = scene.server("10.1.0.1:80")?;
    let more = format!(
        "{WEB}  - {{address: 10.0.0.2-60, port: 81, servers: [10.1.0.1], check: none}}\n\
         settings: {{net.ipv4.vs.expire_quiescent_template: 1}}\n"
    );
    scene.write(&more)?;
    for millis in [0, 20, 50, 80, 120, 200, 400] {
        let director = scene.start()?;
        thread::sleep(Duration::from_millis(millis));
        director.end("-KILL")?;
    }
    let director = scene.start()?;
    scene.sees(&[FIRST, SECOND_DOWN, "-A -t 10.0.0.60:81", FOREIGN], &[])?;
    scene.until("stored health", || {
        Ok(fs::read_to_string(scene.path("state/health")).is_ok_and(|it| it.contains(" down ")))
    })?;
    director.end("-KILL")?;
    // Nobody answers when it starts again: it knows that the second was dead before.
    let no_checks = WEB.replace("interval: 200ms, timeout: 200ms", "interval: 1h, timeout: 1h");
    scene.write(&no_checks)?;
    let director = scene.start()?;
    scene.sees(&[FIRST, SECOND_DOWN, FOREIGN], &["10.0.0.60:81"])?;
    director.end("-KILL")?;
    // Of another boot it knows nothing, and takes nothing away.
    fs::write(scene.path("state/boot"), "another")?;
    fs::write(scene.path("state/health"), "lvs-health 9\nend 0\n")?;
    scene.write("services: []")?;
    let director = scene.start()?;
    scene.until("an answer", || Ok(scene.ask(&["status"])?.0 == 0))?;
    thread::sleep(Duration::from_millis(500));
    scene.sees(&["-A -t 10.0.0.1:80", FOREIGN], &[])?;
    // Two do not share a directory.
    let mut other = scene.start()?;
    assert_eq!(other.0.wait()?.code(), Some(1));
    assert_eq!(director.end("-TERM")?, Some(0));
    Ok(())
}

/// The role is what it is told: addresses and the sync daemon follow.
fn role() -> Outcome {
    let scene = Scene::new()?;
    let links = Links::connect(&scene.namespace)?;
    let link = links.create_dummy("eth0")?.link;
    links.up(&link)?;
    let text = format!(
        "{}role: from-program\nsync: {{interface: eth0, id: 7}}\n",
        WEB.replace("10.0.0.1}]", "10.0.0.1, link: eth0, announce: eth0}, {address: 10.0.0.2}]")
    );
    scene.write(&text)?;
    let _first = scene.server("10.1.0.1:80")?;
    let director = scene.start()?;
    let daemons = || -> Result<String, Failed> {
        let daemons = scene.client.daemons()?;
        Ok(daemons.iter().flatten().map(|it| format!("{} ", it.daemon.role)).collect())
    };
    let is = |master: bool| {
        scene.until(if master { "a master" } else { "a backup" }, || {
            let both = scene.has_address("10.0.0.1")? && scene.has_address("10.0.0.2")?;
            let any = scene.has_address("10.0.0.1")? || scene.has_address("10.0.0.2")?;
            let wanted = if master { "master " } else { "backup " };
            Ok((if master { both } else { !any }) && daemons()? == wanted)
        })
    };
    // A backup has the table, so that connections of the master are at home there.
    scene.sees(&[FIRST, SECOND_DOWN], &[])?;
    is(false)?;
    director.signal("-USR1")?;
    is(true)?;
    scene.says("as master")?;
    director.signal("-USR2")?;
    is(false)?;
    assert_eq!(scene.ask(&["role", "master"])?.0, 0);
    is(true)?;
    assert_eq!(scene.ask(&["role", "backup"])?.0, 0);
    is(false)?;
    scene.write(&text.replace("from-program", "master"))?;
    is(true)?;
    let (status, said) = scene.ask(&["role", "backup"])?;
    assert!(status == 1 && said.contains("from-program"), "{said}");
    director.end("-KILL")?;
    // The next one takes away what this one made.
    scene.write("services: []")?;
    let _director = scene.start()?;
    scene.until("nothing is left", || {
        Ok(!scene.has_address("10.0.0.1")? && scene.table()?.is_empty() && daemons()?.is_empty())
    })
}

fn drains() -> Outcome {
    let scene = Scene::new()?;
    foreign(&scene)?;
    scene.write(&format!("{WEB}stop: drain\ndrain: {{for: 20s}}\n"))?;
    let _first = scene.server("10.1.0.1:80")?;
    let director = scene.start()?;
    scene.sees(&[FIRST], &[])?;
    scene.until("the address", || scene.has_address("10.0.0.1"))?;
    assert_eq!(director.end("-TERM")?, Some(0));
    assert_eq!(scene.table()?.trim(), FOREIGN);
    assert!(!scene.has_address("10.0.0.1")?);
    Ok(())
}

/// CAP_NET_ADMIN is enough, with CAP_NET_RAW to announce.
fn least_rights() -> Outcome {
    for raw in [false, true] {
        let scene = Scene::new()?;
        let links = Links::connect(&scene.namespace)?;
        let link = links.create_dummy("eth0")?.link;
        links.up(&link)?;
        let announce = if raw { ", announce: eth0" } else { "" };
        let text = WEB.replace("10.0.0.1}]", &format!("10.0.0.1, link: eth0{announce}}}]"));
        let text = text
            + "settings: {net.ipv4.ip_forward: 1, net.ipv4.vs.conntrack: 0}\ntimeouts: {udp: 60s}\n";
        scene.write(&text)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(scene.directory.path(), mode)?;
        let _first = scene.server("10.1.0.1:80")?;
        let with_raw: Vec<String> = part::USER_WITH_NET_ADMIN
            .iter()
            .map(|word| match raw {
                true => word.replace("+net_admin", "+net_admin,+net_raw"),
                false => (*word).to_owned(),
            })
            .collect();
        let by: Vec<&str> = with_raw.iter().map(String::as_str).collect();
        let _director = scene.start_by(&by)?;
        scene.sees(&[FIRST, SECOND_DOWN], &[])?;
        scene.until("the address", || scene.has_address("10.0.0.1"))?;
        let (_, status) = scene.ask(&["status"])?;
        assert!(!status.contains("failure"), "{status}");
        if raw {
            let log = fs::read_to_string(scene.path("log"))?;
            assert!(log.contains("announced on eth0"), "{log}");
        }
    }
    Ok(())
}

fn once_and_dry_run() -> Outcome {
    let scene = Scene::new()?;
    scene.write(WEB)?;
    let _first = scene.server("10.1.0.1:80")?;
    let file = scene.path("file").display().to_string();
    let run = |words: &[&str]| -> Result<(i32, String), Failed> {
        let output = run(&scene.namespace, PROGRAM, words, "")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    };
    for words in [&["--check", &file][..], &["run", "--dry-run", &file]] {
        let (status, text) = run(words)?;
        assert!(status == 0 && text.contains("ipvsadm -a -t 10.0.0.1:80"), "{status} {text}");
        assert!(text.contains("ip address add 10.0.0.1/32 dev lvs0"), "{text}");
        assert!(scene.table()?.is_empty());
    }
    let (status, text) = run(&["run", "--once", &file])?;
    assert_eq!(status, 0, "{text}");
    scene.sees(&[FIRST, SECOND_DOWN], &[])?;
    assert!(scene.has_address("10.0.0.1")?);
    scene.write("services: [{port: 80}]\nfoo: 1\n")?;
    for words in [&["--check", &file][..], &["run", "--once", &file]] {
        let (status, text) = run(words)?;
        assert!(status == 2 && text.contains("line 2, column 1"), "{status} {text}");
        assert!(text.contains("line 1, column 12"), "{text}");
    }
    let missing = Path::new("/nonexistent/file").display().to_string();
    assert_eq!(run(&["--check", &missing])?.0, 2);
    Ok(())
}
