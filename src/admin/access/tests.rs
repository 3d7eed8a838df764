//! How many logins last.

use super::*;

fn access(names: &[&str]) -> Access {
    let token = |name: &&str| Token {
        name: (*name).into(),
        token: Secret::inline(token_of(name)),
        grant: Grant {
            role: Role::Viewer,
            repositories: None,
        },
    };
    Access::new(Door::Tokens(names.iter().map(token).collect()))
}

fn token_of(name: &str) -> String {
    format!("{name}-token-0123456789")
}

#[tokio::test(start_paused = true)]
async fn many_logins_by_one_token_end_the_oldest_of_its_own_and_nobody_elses() {
    let access = access(&["ann", "eve"]);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let log_in = |name: &str| access.log_in(&token_of(name), peer).unwrap();
    let is_in = |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("{COOKIE}={id}").parse().unwrap());
        access.who(&Method::GET, &headers, peer).is_ok()
    };
    let ann = log_in("ann");
    let mut eves = Vec::new();
    for _ in 0..SESSIONS_MAX {
        tokio::time::advance(Duration::from_millis(1)).await;
        eves.push(log_in("eve"));
    }
    assert!(is_in(&ann));
    let (ended, lasting) = eves.split_at(SESSIONS_MAX - SESSIONS_OF_ONE_MAX);
    assert!(ended.iter().all(|id| !is_in(id)) && lasting.iter().all(|id| is_in(id)));
}
