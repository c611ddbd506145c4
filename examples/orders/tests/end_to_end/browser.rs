//! A headless Chromium, driven by chromedriver: WebDriver is JSON over HTTP.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{HANG, persistent_client};

pub(crate) struct Browser {
    driver: Child,
    client: ureq::Agent,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page, and takes the first window for it.
    pub(crate) fn open(url: &str) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver (scripts/install-test-tools.sh): {error}"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .find_map(|line| {
                line.unwrap().rsplit_once("started successfully on port ")?.1[..]
                    .trim_end_matches('.')
                    .parse()
                    .ok()
            })
            .expect("chromedriver says where it listens");
        // It must not find its output closed.
        thread::spawn(move || lines.for_each(drop));

        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1200,900",
        ];
        let mut arguments: Vec<_> = arguments.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": arguments } });
        let server = format!("http://127.0.0.1:{port}/session");
        let mut browser = Browser { driver, client: persistent_client(), session: server, _profile: profile };
        let session = browser.command("", json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().unwrap());
        browser.command("/url", json!({ "url": url }));
        browser
    }

    /// Runs the body of a function in the page, and answers what it returns, or what its promise comes to.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// Waits until a condition holds in the page.
    pub(crate) fn until(&self, condition: &str) {
        let patience = Instant::now() + HANG;
        while self.run(&format!("return Boolean({condition})")) != true {
            if Instant::now() > patience {
                let text = self.run("return document.body.innerText");
                panic!("it never holds: {condition}; the page says: {}", text.as_str().unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a person reads in an element.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({selector:?}).innerText"));
        text.as_str().unwrap().to_owned()
    }

    /// Presses keys on whatever has the focus.
    pub(crate) fn press(&self, keys: &str) {
        let steps: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|way| json!({ "type": way, "value": key.to_string() })))
            .collect();
        self.command("/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": steps }] }));
    }

    /// Pretends that the reader has set a preference, such as `prefers-color-scheme`.
    pub(crate) fn prefer(&self, feature: &str, value: &str) {
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": feature, "value": value }] }),
        );
    }

    pub(crate) fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    pub(crate) fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("/goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    /// A PNG of the window.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let url = format!("{}/screenshot", self.session);
        let mut answer = self.client.get(url).call().unwrap();
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        BASE64_STANDARD.decode(answer["value"].as_str().unwrap()).unwrap()
    }

    fn command(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let mut answer = self.client.post(url).send(body.to_string()).unwrap();
        let text = answer.body_mut().with_config().limit(1 << 28).read_to_string().unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}: {json}");
        json["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; then the driver can go.
        let _ = self.client.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
