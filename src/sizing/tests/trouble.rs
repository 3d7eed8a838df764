//! Registries that fail, refuse, are slow, or are down.

use super::*;

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
    bench.fake.hook(|asked| match asked.path.as_str() {
        path if path.ends_with("/manifests/v10") => Some(respond(503, &[], "")),
        _ => None,
    });
    let first = bench.size_by(pushed_with_references(&image), 500).await;
    assert_eq!(first.repository_size, None);
    bench.fake.hook(|_| None);
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
