//! The page that people look at. It works without its script, which only fetches its middle again.

use std::fmt::{self, Write};

use crate::status::{MemberStatus, ServiceStatus, Status, age};

/// The hash is that of [`SCRIPT`]; a test holds them together.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; \
     script-src 'sha256-6VASVFo3ICqZ43HW2y8wsP8TWC6rov0QeHSiGGWNddg='; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --up: #1a7f37; --down: #c5221f; --other: #9a6700; --dim: #777; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 0 .75rem 2rem; }
h1 { font-size: 1.25rem; margin: .75rem 0 .25rem; } h2 { font-size: 1.05rem; margin: 0; }
.head, .service > header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
.dim { color: var(--dim); } .bad { color: var(--down); white-space: pre-wrap; overflow-wrap: anywhere; }
.service { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; margin: .75rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .5rem 0; } .tiles b { font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; margin-top: .4rem; }
th { text-align: left; font-weight: 500; color: var(--dim); font-size: .85rem; }
th, td { padding: .2rem .5rem .2rem 0; border-top: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.state { font-weight: 600; white-space: nowrap; } .state::before { content: '\\25cf'; margin-right: .3rem; }
.up { color: var(--up); } .down { color: var(--down); } .unknown, .draining, .maintenance { color: var(--other); }
.said { overflow-wrap: anywhere; } svg { vertical-align: middle; } polyline { fill: none; stroke: currentColor; }
#lost { display: none; position: sticky; top: 0; background: var(--down); color: #fff; padding: .3rem .75rem; }
ol { list-style: none; padding: 0; } li { overflow-wrap: anywhere; border-top: 1px solid var(--line); padding: .15rem 0; }
@media (max-width: 45rem) {
  thead { display: none; } tr { display: grid; grid-template-columns: 1fr 1fr; border-top: 1px solid var(--line); padding: .3rem 0; }
  td, td.n { border: 0; text-align: left; padding: .05rem 0; } td[data-of]::before { content: attr(data-of) ' '; color: var(--dim); }
  td.said, td.who { grid-column: 1 / -1; }
}
";

/// Fetches the middle of the page each second while somebody looks.
pub(super) const SCRIPT: &str = "
'use strict';
(() => {
  const lost = document.getElementById('lost');
  const part = document.getElementById('part');
  const again = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch('/part', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
        if (!answer.ok) throw new Error(answer.status);
        const text = await answer.text();
        if (!String(getSelection())) part.innerHTML = text;
        lost.style.display = 'none';
      } catch (error) {
        lost.style.display = 'block';
      }
    }
    setTimeout(again, 1000);
  };
  setTimeout(again, 1000);
})();
";

/// A text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// The whole page.
pub(super) fn page(status: &Status) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <title>lvs-director</title><style>{STYLE}</style></head><body>\
         <div id=\"lost\" role=\"alert\">The director does not answer; this is what was seen last.</div>\
         <main id=\"part\">{}</main><script>{SCRIPT}</script></body></html>\n",
        part(status)
    )
}

/// What the script fetches again.
pub(super) fn part(status: &Status) -> String {
    let mut html = String::new();
    // Writing to a String cannot fail.
    let _ = write_part(&mut html, status);
    html
}

fn write_part(out: &mut String, status: &Status) -> fmt::Result {
    let members = || status.services.iter().flat_map(|service| &service.members);
    let count = |state: &str| members().filter(|member| member.state() == state).count();
    write!(
        out,
        "<div class=\"head\"><h1>lvs-director</h1><span class=\"dim\">{} · {} · {}</span></div>",
        Escaped(&status.file),
        Escaped(&status.role),
        time(status.now),
    )?;
    if let Some(mistakes) = &status.mistakes {
        write!(
            out,
            "<p class=\"bad\">The file is not in effect as it is now:\n{}</p>",
            Escaped(mistakes)
        )?;
    }
    for failure in status.failure.iter().chain(&status.host_failures) {
        write!(out, "<p class=\"bad\">{}</p>", Escaped(failure))?;
    }
    if status.held_back > 0 {
        write!(
            out,
            "<p class=\"bad\">{} removals are held back until <code>lvs-director confirm</code></p>",
            status.held_back
        )?;
    }
    let rate: u64 = status.services.iter().map(|it| it.traffic.connection_rate).sum();
    let active: u64 = members().map(|it| u64::from(it.active)).sum();
    write!(
        out,
        "<div class=\"tiles\"><span><b>{}</b> services</span><span class=\"up\"><b>{}</b> up</span>\
         <span class=\"down\"><b>{}</b> down</span><span class=\"unknown\"><b>{}</b> other</span>\
         <span><b>{active}</b> connections</span><span><b>{rate}</b> new a second</span>\
         <span><b>{}</b> checks</span></div>",
        status.services.len(),
        count("up"),
        count("down"),
        members().count() - count("up") - count("down"),
        status.checks,
    )?;
    for service in &status.services {
        write_service(out, status, service)?;
    }
    write!(out, "<h2>Last events</h2><ol>")?;
    for event in status.events.iter().take(50) {
        let kind = match event.kind.as_str() {
            "down" | "quorum-lost" | "sorry-in" | "fail-open-began" => "down",
            "up" | "quorum-regained" | "sorry-out" | "fail-open-ended" => "up",
            _ => "dim",
        };
        write!(
            out,
            "<li><span class=\"dim\">{} ({} ago)</span> <span class=\"{kind}\">{}</span></li>",
            time(event.at),
            age(status.now, event.at),
            Escaped(&event.text)
        )?;
    }
    write!(out, "</ol>")
}

fn write_service(out: &mut String, status: &Status, service: &ServiceStatus) -> fmt::Result {
    let traffic = &service.traffic;
    write!(out, "<section class=\"service\"><header><h2>{}</h2>", Escaped(&service.name))?;
    if service.name != service.key {
        write!(out, "<span>{}</span>", Escaped(&service.key))?;
    }
    write!(
        out,
        "<span class=\"dim\">{}</span><span>{} new/s {}</span><span class=\"dim\">in {}/s, out {}/s</span>",
        Escaped(&service.scheduler),
        traffic.connection_rate,
        sparkline(&service.history),
        bytes(traffic.incoming_byte_rate),
        bytes(traffic.outgoing_byte_rate),
    )?;
    match (service.waits, service.is_there, &service.sorry) {
        (true, ..) => write!(out, "<span class=\"unknown\">waits for first results</span>")?,
        (_, false, _) => write!(out, "<span class=\"down\">not in the kernel</span>")?,
        (.., Some(sorry)) => {
            write!(out, "<span class=\"down\">sorry server {}</span>", Escaped(sorry))?;
        }
        _ => {}
    }
    write!(
        out,
        "</header><table><thead><tr><th>Member</th><th>State</th><th>Since</th><th class=\"n\">Weight</th>\
         <th class=\"n\">Active</th><th class=\"n\">Inactive</th><th class=\"n\">New/s</th><th></th>\
         <th>Last check</th></tr></thead><tbody>"
    )?;
    for member in &service.members {
        write_member(out, status.now, member)?;
    }
    write!(out, "</tbody></table></section>")
}

fn write_member(out: &mut String, now: u64, member: &MemberStatus) -> fmt::Result {
    let shown = |weight: Option<u32>| weight.map_or("–".to_owned(), |weight| weight.to_string());
    let weight = match member.weight == member.wanted {
        true => shown(member.weight),
        false => format!("{} → {}", shown(member.weight), shown(member.wanted)),
    };
    let state = Escaped(member.state());
    write!(
        out,
        "<tr><td class=\"who\">{}</td><td class=\"state {state}\">{state}</td><td data-of=\"since\">{}</td>\
         <td class=\"n\" data-of=\"weight\">{weight}</td><td class=\"n\" data-of=\"active\">{}</td>\
         <td class=\"n\" data-of=\"inactive\">{}</td><td class=\"n\" data-of=\"new/s\">{}</td><td>{}</td>\
         <td class=\"said\">",
        Escaped(&member.address),
        member.since.map_or("–".to_owned(), |since| age(now, since)),
        member.active,
        member.inactive,
        member.traffic.connection_rate,
        sparkline(&member.history),
    )?;
    for (number, check) in member.checks.iter().enumerate() {
        let class = match check.passed {
            Some(true) => "up",
            Some(false) => "down",
            None => "unknown",
        };
        write!(
            out,
            "{}<span class=\"{class}\">{}: {}</span> <span class=\"dim\">{} ago</span>",
            if number > 0 { "<br>" } else { "" },
            Escaped(&check.name),
            Escaped(&check.text),
            age(now, check.at)
        )?;
    }
    if member.checks.is_empty() && !member.reason.is_empty() {
        write!(out, "{}", Escaped(&member.reason))?;
    }
    write!(out, "</td></tr>")
}

/// A line of the last values.
fn sparkline(values: &[u64]) -> String {
    const HEIGHT: f64 = 16.0;
    if values.len() < 2 {
        return String::new();
    }
    let most = values.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut points = String::new();
    for (x, value) in values.iter().enumerate() {
        let y = HEIGHT - 1.0 - (*value as f64 / most) * (HEIGHT - 2.0);
        let _ = write!(points, "{x},{y:.1} ");
    }
    let width = values.len() - 1;
    format!(
        "<svg width=\"{width}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"at most {most} a second\">\
         <polyline points=\"{points}\"/></svg>"
    )
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// In UTC, to the second.
fn time(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    let time = time.filter(|_| seconds < 250_000_000_000);
    time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::status::{CheckStatus, EventStatus};

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let of = |three: &[u8]| {
            let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (8 * (3 - three.len()));
            (0..4)
                .map(move |n| match n <= three.len() {
                    true => char::from(LETTERS[(bits >> (18 - 6 * n)) as usize & 63]),
                    false => '=',
                })
                .collect::<String>()
        };
        bytes.chunks(3).map(of).collect()
    }

    #[test]
    fn the_policy_allows_the_script() {
        assert_eq!(base64(b"Man"), "TWFu");
        assert_eq!(base64(b"Ma"), "TWE=");
        let hash = base64(&Sha256::digest(SCRIPT));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }

    #[test]
    fn what_servers_say_is_no_markup() {
        let evil = "<script>alert('\"&')</script>";
        let text = || evil.to_owned();
        let check = CheckStatus { name: text(), at: 1, passed: Some(false), text: text() };
        let member = MemberStatus {
            address: text(),
            health: text(),
            mode: "enabled".to_owned(),
            reason: text(),
            checks: vec![check],
            history: vec![0, 3, u64::MAX],
            ..MemberStatus::default()
        };
        let service = ServiceStatus {
            name: text(),
            key: format!("-t {evil}"),
            scheduler: text(),
            sorry: Some(text()),
            is_there: true,
            members: vec![member],
            ..ServiceStatus::default()
        };
        let status = Status {
            now: u64::MAX,
            role: text(),
            file: text(),
            mistakes: Some(text()),
            failure: Some(text()),
            host_failures: vec![text()],
            services: vec![service],
            events: vec![EventStatus { at: 5, kind: text(), text: text() }],
            ..Status::default()
        };
        let html = page(&status);
        assert_eq!(html.matches("<script>").count(), 1, "its own");
        assert!(!html.contains("alert('"));
        // 5 of the head, 4 of the service, 5 of the member and its check, and an event.
        assert_eq!(html.matches("alert(&#39;&quot;&amp;&#39;)").count(), 15, "{html}");
    }

    #[test]
    fn lines_and_sizes() {
        assert_eq!(sparkline(&[1]), "");
        assert!(sparkline(&[0, 10, 5]).contains("0,15.0 1,1.0 2,8.0 "));
        assert_eq!(
            (bytes(999), bytes(1500), bytes(2_000_000)),
            ("999 B".into(), "1.5 kB".into(), "2.0 MB".into())
        );
    }
}
