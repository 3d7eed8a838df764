//! Registries that fail, refuse, are slow, or are down.

use futures_util::{future::join_all, poll};

use super::*;
use crate::sizing::unreadable::LEFT_ALONE_FIRST;

#[tokio::test]
async fn a_list_that_is_said_to_go_on_elsewhere_is_read_at_the_registry() {
    let bench = Bench::start().await;
    let stranger = Fake::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("v1", &image);
    bench.push("v2", &image);
    bench.fake.pages(1, Links::At(stranger.url()));
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!(
        (sizes.image_size, sizes.repository_size),
        (Some(1), Some(1 + image.bytes()))
    );
    assert_eq!(stranger.calls(), 0);
}

#[tokio::test]
async fn a_failing_registry_is_asked_again_until_it_answers() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("v1", &image);
    let failures = AtomicUsize::new(0);
    bench
        .fake
        .hook(move |_| match failures.fetch_add(1, Ordering::Relaxed) {
            0..4 => Some(respond(503, &[], "")),
            _ => None,
        });
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!(sizes.image_size, Some(1));
    assert_eq!(sizes.repository_size, Some(1 + image.bytes()));
}

#[tokio::test]
async fn a_pause_longer_than_the_deadline_is_not_waited_for() {
    let bench = Bench::start().await;
    bench
        .fake
        .hook(|_| Some(respond(429, &[("retry-after", "60")], "")));
    let began = Instant::now();
    let sizes = bench.size(pushed(&Made::image(("c", 1), &[]))).await;
    assert_eq!(sizes, Sizes::default());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(bench.fake.calls(), 2);
}

#[tokio::test]
async fn refused_access_is_told_at_once() {
    let bench = Bench::start().await;
    bench
        .fake
        .hook(|_| Some(respond(401, &[("www-authenticate", "Basic realm=\"r\"")], "")));
    let began = Instant::now();
    let sizes = bench.size(pushed(&Made::image(("c", 1), &[]))).await;
    assert_eq!(sizes, Sizes::default());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_is_not_ready_at_the_deadline_is_left_out_and_the_rest_is_told() {
    let bench = Bench::start().await;
    let (known, slow) = (Made::image(("c", 1), &[("l", 10)]), Made::image(("x", 5), &[]));
    bench.push("known", &known);
    bench.size(pushed(&known)).await;
    bench.push("slow", &slow);
    bench.fake.silent(true);
    let deadline = Instant::now() + Duration::from_millis(300);
    let images = vec![pushed(&known), pushed(&slow)];
    let sizes = bench.sizing.size(&repository(), images, deadline).await;
    let late = Instant::now() - deadline;
    assert!(late < Duration::from_millis(200), "{late:?}");
    assert_eq!(sizes[0].image_size, Some(11));
    assert_eq!(sizes[0].repository_size, None);
    assert_eq!(sizes[1], Sizes::default());
}

#[tokio::test]
async fn a_reading_cut_by_its_deadline_is_taken_up_where_it_was() {
    let fake = Fake::start().await;
    let registry = registry::Options {
        concurrency: 1,
        ..fake.options()
    };
    let sizing = Sizing::new(registry::Client::new(registry).unwrap(), Options::default());
    let bench = Bench { fake, sizing };
    let mut expected = 0;
    for number in 0..20_u64 {
        let image = Made::image((&format!("c{number}"), 1), &[]);
        bench.fake.put(&repository(), &image);
        bench
            .fake
            .tag(&repository(), &format!("v{number:02}"), &image.digest);
        expected += 1 + image.bytes();
    }
    let image = Made::image(("c0", 1), &[]);
    // From the eleventh tag on nothing is answered, once.
    bench.fake.hang_at("/v2/acme/app/manifests/v10");
    let first = bench.size_by(pushed_with_references(&image), 500).await;
    assert_eq!(first.repository_size, None);
    let entries = bench.sizing.0.repositories.entries();
    assert!(entries >= 20, "{entries}: what was read so far is in the account");
    bench.fake.hang_at("");
    bench.fake.take_asked();
    let second = bench.size(pushed_with_references(&image)).await;
    assert_eq!(second.repository_size, Some(expected));
    assert_eq!(bench.fake.calls(), 10, "the other half, and no second list");
}

#[tokio::test]
async fn a_registry_known_to_be_down_is_not_waited_for_and_comes_back() {
    let Bench { fake, sizing } = Bench::start().await;
    let address = fake.address;
    drop(fake);
    let image = Made::image(("c", 1), &[]);
    let within = async |milliseconds: u64, image: ImageToSize| {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(milliseconds);
        let sizes = sizing.size(&repository(), vec![image], deadline).await.remove(0);
        (sizes, began.elapsed())
    };
    let (sizes, waited) = within(600, pushed(&image)).await;
    assert_eq!(sizes, Sizes::default());
    assert!(waited >= Duration::from_millis(600), "it might have come back");
    let (sizes, waited) = within(20_000, pushed(&image)).await;
    assert_eq!(sizes, Sizes::default());
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    let (sizes, _) = within(20_000, pushed_with_references(&image)).await;
    assert_eq!(sizes.image_size, Some(1), "what needs no registry is told");

    let fake = Fake::start_at(address).await;
    fake.put(&repository(), &image);
    fake.tag(&repository(), "v1", &image.digest);
    pass(PROBE_PAUSE).await;
    let (sizes, _) = within(20_000, pushed(&image)).await;
    assert_eq!(sizes.image_size, Some(1));
    assert_eq!(sizes.repository_size, Some(1 + image.bytes()));
}

#[tokio::test]
async fn a_registry_known_to_be_down_is_asked_once_a_new_process_of_it_speaks() {
    let Bench { fake, sizing } = Bench::start().await;
    let address = fake.address;
    drop(fake);
    let image = Made::image(("c", 1), &[]);
    let size = async |milliseconds: u64| {
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        let sizes = sizing.size(&repository(), vec![pushed(&image)], deadline).await;
        (sizes[0].image_size, sizes[0].repository_size)
    };
    assert_eq!(size(600).await, (None, None));
    let fake = Fake::start_at(address).await;
    fake.put(&repository(), &image);
    fake.tag(&repository(), "v1", &image.digest);
    assert_eq!(size(20_000).await, (None, None));
    assert_eq!(fake.calls(), 0, "it is known to be down");
    sizing.heard_from("one");
    assert_eq!(size(20_000).await, (Some(1), Some(1 + image.bytes())));
}

#[tokio::test]
async fn a_deadline_already_past_says_nothing_about_the_registry() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("v1", &image);
    assert_eq!(bench.size_by(pushed(&image), 0).await, Sizes::default());
    assert_eq!(bench.size(pushed(&image)).await.image_size, Some(1));
}

#[tokio::test]
async fn a_repository_for_which_the_registry_hangs_costs_no_other_its_sizes() {
    let fake = Fake::start().await;
    let client = registry::Client::new(registry::Options {
        timeout: Duration::from_millis(200),
        ..fake.options()
    });
    let sizing = Sizing::new(client.unwrap(), Options::default());
    let image = Made::image(("config", 10), &[("layer", 20)]);
    fake.put(&repository(), &image);
    fake.hang_for(&other());
    let deadline = Instant::now() + Duration::from_millis(1_500);
    let hung = sizing.size(&other(), vec![pushed(&image)], deadline).await;
    assert_eq!(hung[0].image_size, None);
    let sizes = sizing.size(&repository(), vec![pushed(&image)], soon()).await;
    assert_eq!(sizes[0].image_size, Some(30));
}

#[tokio::test]
async fn however_many_new_repositories_the_registry_hangs_for_one_that_it_answered_is_sized_meanwhile() {
    let fake = Fake::start().await;
    let sizing = Sizing::new(registry::Client::new(fake.options()).unwrap(), Options::default());
    let sizing = &sizing;
    let image = Made::image(("config", 10), &[("layer", 20)]);
    fake.put(&repository(), &image);
    fake.tag(&repository(), "v1", &image.digest);
    let known = sizing.size(&repository(), vec![pushed(&image)], soon()).await;
    assert_eq!(known[0].image_size, Some(30));

    let others: Vec<RepositoryName> = (0..20).map(|n| format!("hung/r{n}").parse().unwrap()).collect();
    fake.hang_at("/v2/hung/");
    fake.take_asked();
    let mut hanging = Box::pin(join_all(others.iter().map(|name| {
        let unheard = Made::image((name.as_str(), 1), &[]);
        async move { sizing.size(name, vec![pushed(&unheard)], soon()).await }
    })));
    let places = fake.options().concurrency - fake.options().concurrency / 8;
    while fake.calls() < places {
        assert!(poll!(&mut hanging).is_pending());
        tokio::task::yield_now().await;
    }
    let next = Made::image(("config", 10), &[("layer", 20), ("more", 5)]);
    fake.put(&repository(), &next);
    let sizes = tokio::select! {
        hung = &mut hanging => panic!("they hang: {hung:?}"),
        sizes = sizing.size(&repository(), vec![pushed(&next)], soon()) => sizes,
    };
    assert_eq!(sizes[0].image_size, Some(35));
    assert_eq!(fake.calls(), places + 1);
}

#[tokio::test]
async fn a_manifest_that_hangs_for_one_repository_is_fetched_for_another() {
    let bench = Bench::start().await;
    let image = Made::image(("config", 10), &[("layer", 20)]);
    bench.push("v1", &image);
    bench.fake.hang_for(&other());
    let images = || vec![pushed(&image)];
    let hung = bench.sizing.size(&other(), images(), soon());
    let sizes = async {
        while !bench
            .fake
            .take_asked()
            .iter()
            .any(|asked| asked.path.contains("/manifests/"))
        {
            tokio::task::yield_now().await;
        }
        bench.sizing.size(&repository(), images(), soon()).await
    };
    let sizes = tokio::select! {
        hung = hung => panic!("it hangs: {hung:?}"),
        sizes = sizes => sizes,
    };
    assert_eq!(sizes[0].image_size, Some(30));
}

/// That path is answered with 500, and all others as ever.
fn failing(path: String) -> impl Fn(&registry::fake::Asked) -> Option<registry::fake::Answer> {
    move |asked| (asked.path == path).then(|| respond(500, &[], r#"{"errors":[{"code":"UNKNOWN"}]}"#))
}

#[tokio::test]
async fn a_tag_that_the_registry_fails_at_costs_its_repositorys_number_and_nobodys_time() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    let mut all = 1 + image.bytes();
    for number in 0..20_u64 {
        let other = Made::image((&format!("c{number}"), 2), &[]);
        bench.fake.put(&repository(), &other);
        bench
            .fake
            .tag(&repository(), &format!("v{number:02}"), &other.digest);
        all += 2 + other.bytes();
    }
    bench.push("new", &image);
    bench.fake.hook(failing("/v2/acme/app/manifests/v03".to_owned()));
    let began = Instant::now();
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), None));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());

    bench.fake.take_asked();
    let began = Instant::now();
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), None));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(bench.fake.calls(), 0, "it is left alone");

    bench.fake.hook(|_| None);
    pass(LEFT_ALONE_FIRST).await;
    assert_eq!(bench.size(pushed(&image)).await.repository_size, Some(all));
    assert_eq!(bench.fake.calls(), 1, "what the others name was kept");
}

#[tokio::test]
async fn a_tag_that_the_registry_fails_at_counts_as_soon_as_it_is_pushed() {
    let bench = Bench::start().await;
    let (image, new) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("v1", &image);
    bench.fake.tag(&repository(), "broken", &image.digest);
    bench
        .fake
        .hook(failing("/v2/acme/app/manifests/broken".to_owned()));
    assert_eq!(bench.size(pushed(&image)).await.repository_size, None);
    bench.push("broken", &new);
    let both = Some(6 + image.bytes() + new.bytes());
    assert_eq!(bench.size(pushed(&new)).await.repository_size, both);
}

#[tokio::test]
async fn a_manifest_that_the_registry_fails_at_is_left_alone_until_it_is_pushed_again() {
    let bench = Bench::start().await;
    let (child, other) = (Made::image(("x", 5), &[]), Made::image(("c", 1), &[]));
    let index = Made::index(&[(&child, "linux")]);
    bench.fake.put(&repository(), &child);
    bench.push("other", &other);
    bench.push("v1", &index);
    bench
        .fake
        .hook(failing(format!("/v2/acme/app/manifests/{}", child.digest)));
    for calls in [None, Some(0)] {
        let began = Instant::now();
        let sizes = bench.size(pushed(&index)).await;
        assert_eq!((sizes.image_size, sizes.repository_size), (None, None));
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        let asked = bench.fake.take_asked();
        assert!(calls.is_none_or(|calls| asked.len() == calls), "{asked:?}");
    }
    let sizes = bench.size(pushed(&other)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), None));
    bench.fake.hook(|_| None);
    bench.sizing.apply(&held(&child.digest));
    let all = Some(6 + child.bytes() + index.bytes() + other.bytes());
    let sizes = bench.size(pushed(&index)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(5), all));
}

#[tokio::test]
async fn a_registry_whose_storage_is_away_is_waited_for_although_it_is_there() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("v1", &image);
    bench.fake.tag(&repository(), "v2", &image.digest);
    let back = Instant::now() + Duration::from_secs(4);
    bench.fake.hook(move |asked| {
        let is_away = Instant::now() < back && asked.path != "/v2/";
        is_away.then(|| respond(500, &[], ""))
    });
    let sizes = bench.size(pushed(&image)).await;
    let size = Some(1 + image.bytes());
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), size));
}

#[tokio::test]
async fn what_is_read_of_another_repository_says_nothing_of_this_one() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("v1", &image);
    let back = Instant::now() + Duration::from_secs(3);
    bench.fake.hook(move |asked| {
        let is_away = Instant::now() < back && asked.path.starts_with("/v2/acme/app/");
        is_away.then(|| respond(500, &[], ""))
    });
    let others = async {
        while Instant::now() < back {
            let absent = Made::image(("x", back.duration_since(Instant::now()).as_secs()), &[]);
            bench.sizing.size(&other(), vec![pushed(&absent)], soon()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (sizes, ()) = join(bench.size(pushed(&image)), others).await;
    let size = Some(1 + image.bytes());
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), size));
}

#[tokio::test]
async fn many_tags_that_the_registry_fails_at_cost_nobodys_time_either() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.push("new", &image);
    for number in 0..200 {
        bench
            .fake
            .tag(&repository(), &format!("old{number}"), &image.digest);
    }
    bench.fake.hook(|asked| {
        let is_old = asked.path.starts_with("/v2/acme/app/manifests/old");
        is_old.then(|| respond(500, &[], ""))
    });
    for (longest_ms, most) in [(8_000, 900), (150, 0)] {
        let began = Instant::now();
        let sizes = bench.size(pushed(&image)).await;
        assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), None));
        let took = began.elapsed();
        assert!(took < Duration::from_millis(longest_ms), "{took:?}");
        let asked = bench.fake.take_asked().len();
        assert!(asked <= most, "{asked}");
    }
}
