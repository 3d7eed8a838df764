use super::*;

/// What becomes of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is sent to, whoever typed it.
    Public,
    /// Its text says nothing; its addresses will.
    Name,
    /// A user's is refused for this; the operator's is sent to.
    Special(Special),
    /// Refused for this, whoever typed it.
    Never(Special),
    /// It is no URL to send to.
    Invalid,
}

use Verdict::{Invalid, Name, Never, Public};

const fn user(special: Special) -> Verdict {
    Verdict::Special(special)
}

const LOOPBACK: Verdict = user(Special::Loopback);
const PRIVATE: Verdict = user(Special::Private);
const EMBEDDED: Verdict = user(Special::Embedded);
const RESERVED: Verdict = user(Special::Reserved);
const METADATA: Verdict = Never(Special::Metadata);
const OWN: Verdict = Never(Special::OwnListener);

/// Every spelling, and what it comes to when it is saved.
const SPELLINGS: &[(&str, Verdict)] = &[
    // This machine.
    ("http://127.0.0.1/hook", LOOPBACK),
    ("http://127.1/hook", LOOPBACK),
    ("http://127.255.255.254:8080/", LOOPBACK),
    ("http://2130706433/", LOOPBACK),
    ("http://0x7f000001/", LOOPBACK),
    ("http://0x7f.0.0.1/", LOOPBACK),
    ("http://0177.0.0.1/", LOOPBACK),
    ("http://017700000001/", LOOPBACK),
    ("http://0x7F.1/", LOOPBACK),
    ("http://127.0.0.1./", LOOPBACK),
    ("http://１２７.０.０.１/", LOOPBACK),
    ("http://①②⑦.⓪.⓪.①/", LOOPBACK),
    ("http://127。0。0。1/", LOOPBACK),
    ("http://%31%32%37.0.0.1/", LOOPBACK),
    ("http://user:pass@127.0.0.1/", LOOPBACK),
    ("http://8.8.8.8@127.0.0.1/", LOOPBACK),
    ("http://127.0.0.1\\@8.8.8.8/", LOOPBACK),
    ("http:\\\\127.0.0.1\\hook", Invalid),
    ("http:/127.0.0.1/hook", Invalid),
    ("http:///127.0.0.1/hook", Invalid),
    ("ht\ttp:/\t/127.0.0.1/hook", LOOPBACK),
    ("http:127.0.0.1", Invalid),
    (" http://127.0.0.1/ ", LOOPBACK),
    ("ht\ntp://127.0.\t0.1/", LOOPBACK),
    ("http://localhost/", LOOPBACK),
    ("http://LOCALHOST./", LOOPBACK),
    ("http://a.localhost:9/", LOOPBACK),
    ("http://[::1]/", LOOPBACK),
    ("http://[0:0:0:0:0:0:0:1]/", LOOPBACK),
    ("http://[0000::0001]:80/", LOOPBACK),
    // No address.
    ("http://0.0.0.0/", user(Special::Unspecified)),
    ("http://0/", user(Special::Unspecified)),
    ("http://[::]/", user(Special::Unspecified)),
    ("http://0.1.2.3/", RESERVED),
    // Private networks.
    ("http://10.0.0.1/", PRIVATE),
    ("http://10.1/", PRIVATE),
    ("http://172.16.0.1/", PRIVATE),
    ("http://172.31.255.255/", PRIVATE),
    ("http://192.168.1.1/", PRIVATE),
    ("http://192.168.257/", PRIVATE),
    ("http://3232235777/", PRIVATE),
    ("http://0xc0a80101/", PRIVATE),
    ("http://100.64.0.1/", user(Special::CarrierNat)),
    ("http://100.127.255.255/", user(Special::CarrierNat)),
    ("http://[fd12:3456::1]/", user(Special::UniqueLocal)),
    ("http://[fc00::1]/", user(Special::UniqueLocal)),
    ("http://[fec0::1]/", user(Special::SiteLocal)),
    // Reserved, groups.
    ("http://192.0.0.8/", RESERVED),
    ("http://198.18.0.1/", RESERVED),
    ("http://198.19.255.255/", RESERVED),
    ("http://240.0.0.1/", RESERVED),
    ("http://255.255.255.255/", RESERVED),
    ("http://224.0.0.1/", user(Special::Multicast)),
    ("http://239.255.255.250/", user(Special::Multicast)),
    ("http://[ff02::1]/", user(Special::Multicast)),
    ("http://[4000::1]/", RESERVED),
    ("http://[100::1]/", RESERVED),
    // IPv4 in IPv6's clothes.
    ("http://[::ffff:127.0.0.1]/", EMBEDDED),
    ("http://[::ffff:7f00:1]/", EMBEDDED),
    ("http://[0:0:0:0:0:ffff:10.0.0.1]/", EMBEDDED),
    ("http://[::ffff:8.8.8.8]/", EMBEDDED),
    ("http://[::127.0.0.1]/", EMBEDDED),
    ("http://[::ffff:0:127.0.0.1]/", EMBEDDED),
    ("http://[64:ff9b::7f00:1]/", EMBEDDED),
    ("http://[64:ff9b::10.0.0.1]/", EMBEDDED),
    ("http://[64:ff9b:1::1]/", EMBEDDED),
    ("http://[64:ff9b:1::7f00:1]/", EMBEDDED),
    ("http://[64:ff9b:1:a00:0:100::]/", EMBEDDED),
    ("http://[2002:7f00:1::]/", EMBEDDED),
    ("http://[2002:a00:1::1]/", EMBEDDED),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", EMBEDDED),
    // Nobody's.
    ("http://169.254.169.254/latest/meta-data/", METADATA),
    ("http://2852039166/", METADATA),
    ("http://0xA9.0xFE.0xA9.0xFE/", METADATA),
    ("http://0251.0376.0251.0376/", METADATA),
    ("http://169.254.0.1/", METADATA),
    ("http://100.100.100.200/", METADATA),
    ("http://168.63.129.16/", METADATA),
    ("http://[fe80::1]/", METADATA),
    ("http://[febf::1]/", METADATA),
    ("http://[fd00:ec2::254]/", METADATA),
    ("http://[::ffff:169.254.169.254]/", METADATA),
    ("http://[::a9fe:a9fe]/", METADATA),
    ("http://[64:ff9b::a9fe:a9fe]/", METADATA),
    ("http://[2002:a9fe:a9fe::]/", METADATA),
    // Translated for local use, by prefixes of each length that there can be: 96, 64, 56 and 48 bits.
    ("http://[64:ff9b:1::a9fe:a9fe]/", METADATA),
    ("http://[64:ff9b:1:fffe::100.100.100.200]/", METADATA),
    ("http://[64:ff9b:1::a9:fea9:fe00:0]/", METADATA),
    ("http://[64:ff9b:1:ffa9:fe:a9fe::]/", METADATA),
    ("http://[64:ff9b:1:a9fe:a9:fe00::]/", METADATA),
    ("http://[64:ff9b:1:a83f:81:1000::]/", METADATA),
    ("http://[::ffff:100.100.100.200]/", METADATA),
    // Our own listeners: one on one address, one on all.
    ("http://127.0.0.1:8580/events", OWN),
    ("http://localhost:8580/events", OWN),
    ("http://0:8580/", OWN),
    ("http://[::ffff:127.0.0.1]:8580/", OWN),
    ("http://[::1]:8582/", OWN),
    ("http://127.9.9.9:8582/", OWN),
    ("http://10.0.0.5:8581/", OWN),
    // Public, or a name.
    ("https://8.8.8.8/hook", Public),
    ("https://134744072/", Public),
    ("http://172.15.255.255/", Public),
    ("http://172.32.0.1/", Public),
    ("http://100.63.255.255/", Public),
    ("http://100.128.0.1/", Public),
    ("http://192.0.1.1/", Public),
    ("http://11.0.0.1/", Public),
    ("http://[2606:4700::6810:85e5]/", Public),
    ("https://ci.example.com/hook?token=1", Name),
    ("https://127.0.0.1.nip.io/", Name),
    ("https://localhost.example.com/", Name),
    ("https://notlocalhost/", Name),
    ("https://metadata.google.internal/", Name),
    // No URLs to send to.
    ("http://[fe80::1%25eth0]/", Invalid),
    ("http://[fe80::1%eth0]/", Invalid),
    ("http://[::1", Invalid),
    ("http://256.0.0.1/", Invalid),
    ("http://0x7g.0.0.1/", Invalid),
    ("http://1.2.3.4.5/", Invalid),
    ("http://127.0.0.1:99999/", Invalid),
    ("http://a b/", Invalid),
    ("http:///", Invalid),
    ("//127.0.0.1/", Invalid),
    ("file:///etc/passwd", Invalid),
    ("gopher://127.0.0.1:25/", Invalid),
    ("javascript:alert(1)", Invalid),
    ("http://127.0.0.1/#x", Invalid),
];

fn guard(allowed: &[&str]) -> Guard {
    let allowed = allowed.iter().map(|network| network.parse().unwrap());
    let own = ["127.0.0.1:8580", "10.0.0.5:8581", "0.0.0.0:8582"].map(|own| own.parse().unwrap());
    Guard::new(allowed.collect(), own.into())
}

fn verdict(guard: &Guard, url: &str) -> Verdict {
    let Ok(target) = Target::parse(url) else {
        return Invalid;
    };
    let judged = [Author::User, Author::Operator].map(|author| guard.check_url(&target, author));
    match judged {
        [Ok(()), Ok(())] if literal(target.host()).is_some() => Public,
        [Ok(()), Ok(())] => Name,
        [Err(refusal), Ok(())] => Verdict::Special(refusal.special),
        [Err(refusal), Err(same)] if refusal == same => Never(refusal.special),
        other => unreachable!("{url}: {other:?}"),
    }
}

#[test]
fn every_spelling_is_judged_when_it_is_saved() {
    let guard = guard(&[]);
    assert!(SPELLINGS.len() >= 60);
    for (url, expected) in SPELLINGS {
        assert_eq!(verdict(&guard, url), *expected, "{url}");
    }
}

#[test]
fn what_is_refused_when_it_is_saved_is_refused_at_the_connect() {
    let guard = guard(&[]);
    for (url, expected) in SPELLINGS {
        let Ok(target) = Target::parse(url) else { continue };
        let Some(address) = literal(target.host()) else {
            continue;
        };
        let addresses = [SocketAddr::new(address, target.port())];
        for (author, refused) in [
            (Author::User, !matches!(expected, Public)),
            (Author::Operator, matches!(expected, Never(_))),
        ] {
            let judged = guard.check_addresses(target.host(), &addresses, author);
            assert_eq!(judged.is_err(), refused, "{url} {author:?}");
        }
    }
}

/// An address of this machine that others could reach it by, if it has one.
fn address_of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: only a route is looked for, to an address of RFC 5737.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn a_listener_on_all_addresses_is_at_each_address_of_this_machine() {
    let Some(ip) = address_of_this_machine() else {
        return eprintln!("SKIPPED: this machine has no address but its own loopback");
    };
    let guard = guard(&[&format!("{ip}/32")]);
    for author in [Author::User, Author::Operator] {
        let judge = |port: u16| {
            let url = format!("http://{ip}:{port}/hook");
            guard.check_url(&Target::parse(&url).unwrap(), author)
        };
        assert_eq!(judge(8582), Err(refusal(ip, Special::OwnListener)));
        assert_eq!(judge(8583), Ok(()), "nobody of us listens there");
    }
}

/// Names, by what a resolver answers: who may send there, the user and the operator.
const ANSWERS: &[(&[&str], bool, bool)] = &[
    (&["93.184.216.34"], true, true),
    (&["2606:4700::1111", "104.16.0.1"], true, true),
    (&["127.0.0.1"], false, true),
    (&["10.0.0.7"], false, true),
    // One bad answer among good ones, wherever it stands.
    (&["93.184.216.34", "10.0.0.7"], false, true),
    (&["10.0.0.7", "93.184.216.34"], false, true),
    (&["93.184.216.34", "::1"], false, true),
    (&["93.184.216.34", "169.254.169.254"], false, false),
    (&["::ffff:169.254.169.254"], false, false),
    (&["64:ff9b::5db8:d822"], false, true),
    (&["0.0.0.0"], false, true),
    (&["fd00:ec2::254"], false, false),
];

#[test]
fn a_name_is_judged_by_all_its_addresses() {
    let guard = guard(&[]);
    for (answers, user, operator) in ANSWERS {
        let addresses: Vec<_> = answers
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 443))
            .collect();
        for (author, allowed) in [(Author::User, *user), (Author::Operator, *operator)] {
            let judged = guard.check_addresses("hook.example.com", &addresses, author);
            assert_eq!(judged.is_ok(), allowed, "{answers:?} {author:?}");
            if let Err(refusal) = judged {
                assert!(
                    refusal.to_string().starts_with("hook.example.com resolves to "),
                    "{refusal}"
                );
            }
        }
    }
}

#[test]
fn a_listed_network_is_open_to_users_and_nothing_else_is() {
    let guard = guard(&[
        "10.0.0.0/8",
        "fd00::/8",
        "64:ff9b::/96",
        "169.254.0.0/16",
        "127.0.0.0/8",
    ]);
    for (url, expected) in [
        ("http://10.200.0.1/", Public),
        ("http://127.0.0.1/", Public),
        ("http://[fd00::1]/", Public),
        ("http://192.168.1.1/", PRIVATE),
        // By the address inside, or by the form with a public one inside.
        ("http://[::ffff:10.0.0.1]/", Public),
        ("http://[64:ff9b::5db8:d822]/", Public),
        ("http://[64:ff9b::10.0.0.1]/", Public),
        ("http://[64:ff9b::192.168.1.1]/", EMBEDDED),
        ("http://[::ffff:192.168.1.1]/", EMBEDDED),
        // Nothing opens these.
        ("http://169.254.169.254/", METADATA),
        ("http://[fd00:ec2::254]/", METADATA),
        ("http://[64:ff9b::a9fe:a9fe]/", METADATA),
        ("http://127.0.0.1:8580/", OWN),
        ("http://10.0.0.5:8581/", OWN),
    ] {
        assert_eq!(verdict(&guard, url), expected, "{url}");
    }
}

#[test]
fn a_connection_that_ends_at_a_listener_of_ours_is_refused() {
    let guard = guard(&[]);
    for (local, peer, is_own) in [
        ("127.0.0.1:40000", "127.0.0.1:8580", true),
        ("[::ffff:127.0.0.1]:40000", "[::ffff:127.0.0.1]:8580", true),
        // This machine's own address, which nothing but the connection tells.
        ("203.0.113.9:40000", "203.0.113.9:8582", true),
        ("203.0.113.9:40000", "203.0.113.10:8582", false),
        ("127.0.0.1:40000", "127.0.0.1:8583", false),
    ] {
        let judged = guard.check_connection(local.parse().unwrap(), peer.parse().unwrap());
        assert_eq!(judged.is_err(), is_own, "{peer}");
    }
}

#[test]
fn the_line_that_a_refusal_names_allows_it() {
    for address in [
        "10.1.2.3",
        "[fd12::1]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:808:808::]",
        "100.64.0.1",
        "198.18.0.1",
    ] {
        let target = Target::parse(&format!("http://{address}/")).unwrap();
        let refusal = guard(&[])
            .check_url(&target, Author::User)
            .unwrap_err()
            .to_string();
        let network = refusal.split('"').nth(1).unwrap();
        assert!(
            guard(&[network]).check_url(&target, Author::User).is_ok(),
            "{address}: {refusal}"
        );
    }
}

#[test]
fn a_refusal_says_what_is_wrong_and_what_would_allow_it() {
    let guard = guard(&[]);
    let refusal = |url: &str| {
        let target = Target::parse(url).unwrap();
        guard.check_url(&target, Author::User).unwrap_err().of_url()
    };
    assert_eq!(
        refusal("https://10.1.2.3/hook?token=hunter2"),
        "it points to 10.1.2.3, which is in a private network (RFC 1918): webhooks go there only once the operator allows it, \
         with allow_networks = [\"10.1.2.3/32\"] under [delivery], and restarts shipbell"
    );
    assert_eq!(
        refusal("http://169.254.169.254/"),
        "it points to 169.254.169.254, which is where clouds hand out a machine's credentials, or a link's own address: \
         webhooks never go there"
    );
}
