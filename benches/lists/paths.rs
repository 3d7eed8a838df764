//! What is asked for, and how long it may take.

use super::{ADMIN, Asked, FEW, SEEN, TEAM, VIEWER, measure};

/// What an admin asks for; whether any took too long. `newest` finds nearly as many deliveries as may be sent again at once.
pub(crate) fn admins(port: u16, repositories: u32, newest: &str) -> anyhow::Result<bool> {
    let image = |round| image(round, repositories);
    let name = |round| image(round).replace('/', "%2F");
    let paths: &[Asked<'_>] = &[
        ("API repositories", &|_| {
            "/api/v1/repositories?limit=50".to_owned()
        }),
        ("API repositories by size", &|_| {
            "/api/v1/repositories?sort=size".to_owned()
        }),
        ("API repositories by last push", &|_| {
            "/api/v1/repositories?sort=last_push".to_owned()
        }),
        ("API repositories, search", &|round| {
            format!("/api/v1/repositories?q=app{}", round * 997)
        }),
        ("API repositories, search in vain", &|_| {
            "/api/v1/repositories?q=nothing-like-it".to_owned()
        }),
        ("API repositories, by size, in vain", &|_| {
            "/api/v1/repositories?sort=size&q=nothing-like-it".to_owned()
        }),
        ("API repositories, by last push, in vain", &|_| {
            "/api/v1/repositories?sort=last_push&q=nothing-like-it".to_owned()
        }),
        ("API repository", &|round| {
            format!("/api/v1/repositories/{}", name(round))
        }),
        ("API webhook", &|round| {
            format!("/api/v1/repositories/{}/webhook", name(round))
        }),
        ("API deliveries", &|_| "/api/v1/deliveries".to_owned()),
        ("API deliveries of a repository", &|round| {
            format!("/api/v1/deliveries?repository={}", name(round))
        }),
        ("API deliveries of an endpoint", &|_| {
            "/api/v1/deliveries?endpoint=ci".to_owned()
        }),
        ("API dead deliveries", &|_| {
            "/api/v1/deliveries?state=dead_letter".to_owned()
        }),
        ("API pending deliveries", &|_| {
            "/api/v1/deliveries?state=pending".to_owned()
        }),
        ("API dead deliveries of a repository", &|round| {
            format!("/api/v1/deliveries?state=dead_letter&repository={}", name(round))
        }),
        ("API endpoints", &|_| "/api/v1/endpoints".to_owned()),
        ("API endpoints, failing (none)", &|_| {
            "/api/v1/endpoints?state=failing".to_owned()
        }),
        ("API queue", &|_| "/api/v1/queue".to_owned()),
        ("API queue, of a repository", &|round| {
            format!("/api/v1/queue?repository={}", name(round))
        }),
        ("API why", &|round| format!("/api/v1/why?image={}", image(round))),
        ("API overview", &|_| "/api/v1/overview".to_owned()),
        ("page overview", &|_| "/overview".to_owned()),
        ("page repositories", &|_| "/repositories".to_owned()),
        ("page repositories, search", &|round| {
            format!("/repositories?q=app{}", round * 997)
        }),
        ("page repository", &|round| {
            format!("/repositories/{}", name(round))
        }),
        ("page deliveries", &|_| "/deliveries".to_owned()),
        ("page deliveries, dead", &|_| {
            "/deliveries?state=dead_letter".to_owned()
        }),
        ("page endpoints", &|_| "/endpoints".to_owned()),
        ("page dead letters", &|_| "/dead-letters".to_owned()),
        ("page, to send deliveries again", &|_| {
            format!("/deliveries/redeliver?{newest}")
        }),
    ];
    measure(port, ADMIN, paths)
}

/// Dead letters, by what finds many, few, or none; whether any took too long.
pub(crate) fn dead_letters(port: u16, repositories: u32) -> anyhow::Result<bool> {
    let name = |round| image(round, repositories);
    let paths: &[Asked<'_>] = &[
        ("API dead letters", &|_| "/api/v1/dead-letters".to_owned()),
        ("API dead letters of an endpoint", &|_| {
            "/api/v1/dead-letters?endpoint=old".to_owned()
        }),
        ("API dead letters of a rare endpoint", &|_| {
            "/api/v1/dead-letters?endpoint=rare&limit=1000".to_owned()
        }),
        ("API dead letters of a tag, in vain", &|_| {
            "/api/v1/dead-letters?tag=none".to_owned()
        }),
        ("API dead letters of two, in vain", &|_| {
            "/api/v1/dead-letters?endpoint=rare&repository=mono/app".to_owned()
        }),
        ("API dead letters of a repository", &|round| {
            format!("/api/v1/dead-letters?repository={}", name(round))
        }),
        ("API dead letters of a repository's tag", &|_| {
            "/api/v1/dead-letters?repository=mono/app&tag=latest&limit=1000".to_owned()
        }),
        ("API dead letters of many repositories", &|_| {
            "/api/v1/dead-letters?repository=team7/**".to_owned()
        }),
        ("API dead letters of a pattern's end", &|round| {
            format!("/api/v1/dead-letters?repository=**/app{}", round * 997)
        }),
        ("API dead letters of a pattern's end, in vain", &|_| {
            "/api/v1/dead-letters?repository=**/nothing-like-it".to_owned()
        }),
        ("API dead letters of a pattern, many", &|_| {
            "/api/v1/dead-letters?repository=**/app*7&limit=1000".to_owned()
        }),
        ("API dead letters of a pattern, the rare", &|_| {
            "/api/v1/dead-letters?repository=**/app*7&endpoint=rare&limit=1000".to_owned()
        }),
        ("API dead letters of a time, none", &|_| {
            "/api/v1/dead-letters?until=2001-01-01T00:00:00Z".to_owned()
        }),
        ("page, to send dead letters again", &|_| {
            "/dead-letters/replay?endpoint=ci&repository=*/*".to_owned()
        }),
        ("API dead letters of three", &|_| {
            "/api/v1/dead-letters?endpoint=ci&tag=v7&since=2001-01-01T00:00:00Z".to_owned()
        }),
    ];
    measure(port, ADMIN, paths)
}

/// The repository that a round is about.
fn image(round: usize, repositories: u32) -> String {
    let number = round * 7919 % repositories as usize;
    format!("team{}/app{number}", number % 100)
}

/// What those ask for who may see some of the repositories.
pub(crate) fn viewers(port: u16) -> anyhow::Result<bool> {
    let mut is_short = false;
    for (whose, token) in [
        ("one repository", VIEWER),
        ("a hundredth", TEAM),
        ("ten by **", FEW),
    ] {
        println!("\nby somebody who may see {whose}");
        is_short |= measure(port, token, VIEWED)?;
    }
    println!("\nby somebody who may see one repository");
    let its: &[Asked<'_>] = &[
        ("its deliveries", &|_| {
            format!("/api/v1/deliveries?repository={SEEN}")
        }),
        ("its dead letters", &|_| {
            format!("/api/v1/dead-letters?repository={SEEN}")
        }),
        ("page repository", &|_| {
            format!("/repositories/{}", SEEN.replace('/', "%2F"))
        }),
    ];
    Ok(is_short | measure(port, VIEWER, its)?)
}

/// What is asked for by everybody.
const VIEWED: &[Asked<'static>] = &[
    ("API repositories", &|_| "/api/v1/repositories".to_owned()),
    ("API repositories by size", &|_| {
        "/api/v1/repositories?sort=size".to_owned()
    }),
    ("API repositories by last push", &|_| {
        "/api/v1/repositories?sort=last_push".to_owned()
    }),
    ("API deliveries", &|_| "/api/v1/deliveries".to_owned()),
    ("API 1,000 deliveries", &|_| {
        "/api/v1/deliveries?limit=1000".to_owned()
    }),
    ("API deliveries of an endpoint", &|_| {
        "/api/v1/deliveries?endpoint=ci&limit=1000".to_owned()
    }),
    ("API pending deliveries", &|_| {
        "/api/v1/deliveries?state=pending&limit=1000".to_owned()
    }),
    ("API endpoints", &|_| "/api/v1/endpoints".to_owned()),
    ("API dead letters", &|_| "/api/v1/dead-letters".to_owned()),
    ("API 1,000 dead letters", &|_| {
        "/api/v1/dead-letters?limit=1000".to_owned()
    }),
    ("API dead letters of an endpoint", &|_| {
        "/api/v1/dead-letters?endpoint=ci&limit=1000".to_owned()
    }),
    ("API queue", &|_| "/api/v1/queue".to_owned()),
    ("page overview", &|_| "/overview".to_owned()),
    ("page repositories", &|_| "/repositories".to_owned()),
    ("page deliveries", &|_| "/deliveries".to_owned()),
    ("page endpoints", &|_| "/endpoints".to_owned()),
    ("page dead letters", &|_| "/dead-letters".to_owned()),
];
