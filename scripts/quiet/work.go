package main

// work is something that people and their machines do all day. Its parts are what an
// administrator would type, so a shell runs them; $Q is a folder of its own, $P a free port on
// loopback.
type work struct {
	name  string
	needs []string // programs
	// begin makes what it needs, once; it may leave a daemon behind, in the cgroup, whose pid
	// stands in $Q/pid.
	begin string
	// round is done again and again; of those that work as another account, as that one.
	round string
	as    string
	port  int
}

var all = []work{
	{
		name: "apt", needs: []string{"apt-get"},
		round: "export DEBIAN_FRONTEND=noninteractive; apt-get install -y -q hello && hello >/dev/null && apt-get remove -y -q hello && dpkg -l | tail -1",
	},
	{
		name: "go", needs: []string{"go"},
		begin: `cd $Q && cat >go.mod <<'E'
module example.com/quiet
go 1.24
E
printf 'package main\nimport "fmt"\nfunc Add(a, b int) int { return a + b }\nfunc main() { fmt.Println(Add(1, 2)) }\n' >main.go
printf 'package main\nimport "testing"\nfunc TestAdd(t *testing.T) { if Add(1, 2) != 3 { t.Fatal() } }\n' >main_test.go`,
		round: `cd $Q && export GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOCACHE=$Q/cache HOME=$Q && echo "// $RANDOM" >>main.go && go vet ./... && go build -o app . && ./app && go test ./...`,
	},
	{
		name: "git", needs: []string{"git"},
		begin: `cd $Q && export HOME=$Q && git init -q repo && cd repo && git config user.email a@example.com && git config user.name a && echo 1 >f && git add . && git commit -qm one`,
		round: `cd $Q/repo && export HOME=$Q && date >>f && git commit -qam "now" && git log --oneline | head -3 && git branch -f b && git diff b~1 b --stat && rm -rf $Q/copy && git clone -q $Q/repo $Q/copy && git gc -q`,
	},
	{
		name: "npm", needs: []string{"npm", "node"},
		begin: `cd $Q && export HOME=$Q && mkdir -p lib app && cd lib && npm init -y >/dev/null && echo 'module.exports = 1' >index.js && npm pack --silent`,
		round: `cd $Q/app && export HOME=$Q && rm -rf node_modules package*.json && npm init -y >/dev/null && npm install --offline --no-audit --no-fund ../lib/lib-1.0.0.tgz && node -e 'require("lib")'`,
	},
	{
		name: "logrotate", needs: []string{"logrotate"},
		begin: `cd $Q && mkdir -p log && printf '%s/log/*.log {\n rotate 4\n size 1\n compress\n create 0640 root adm\n postrotate\n  true\n endscript\n}\n' $Q >conf && chmod 644 conf && chown root:root conf log && chmod 755 log`,
		round: `cd $Q && seq 1000 >>log/app.log && seq 500 >>log/other.log && logrotate -s $Q/state $Q/conf && ls log`,
	},
	{
		name: "cron", needs: []string{"cron", "unshare"},
		// In a mount namespace of its own, so that nobody else's jobs run, nor this one elsewhere.
		begin: `mkdir -p $Q/tabs && printf 'SHELL=/bin/sh\nPATH=/usr/bin:/bin\n* * * * * df -h >%s/df; find /var/log -name "*.gz" -mtime +7 | wc -l >%s/count\n' $Q $Q >$Q/tabs/root && chmod 600 $Q/tabs/root && chmod 1730 $Q/tabs && echo >$Q/crontab && mkdir -p $Q/empty &&
unshare -m sh -c "mount --bind $Q/tabs /var/spool/cron/crontabs && mount --bind $Q/crontab /etc/crontab && mount --bind $Q/empty /etc/cron.d && mount -t tmpfs none /run && exec cron -f" & echo $! >$Q/pid`,
		round: `ls -l $Q`,
	},
	{
		name: "nginx", needs: []string{"nginx", "curl"}, port: 18480,
		begin: `cd $Q && mkdir -p www tmp && echo hello >www/index.html && chmod -R a+rX $Q && printf 'pid %s/nginx.pid;\nerror_log %s/error.log;\nevents {}\nhttp {\n access_log %s/access.log;\n client_body_temp_path %s/tmp; proxy_temp_path %s/tmp; fastcgi_temp_path %s/tmp; uwsgi_temp_path %s/tmp; scgi_temp_path %s/tmp;\n server { listen 127.0.0.1:%s; root %s/www; }\n}\n' $Q $Q $Q $Q $Q $Q $Q $Q $P $Q >conf && (nginx -c $Q/conf -g 'daemon off;' & echo $! >$Q/pid)`,
		round: `for i in $(seq 200); do echo "url=http://127.0.0.1:$P/?$i"; echo 'output=/dev/null'; done | curl -s -K - && nginx -c $Q/conf -t && nginx -c $Q/conf -s reload`,
	},
	{
		name: "postgres", needs: []string{"psql", "pgbench"}, as: "postgres", port: 18481,
		begin: `B=$(ls -d /usr/lib/postgresql/*/bin | tail -1) && $B/initdb -D $Q/db >/dev/null && ($B/postgres -D $Q/db -p $P -k $Q -c listen_addresses=127.0.0.1 & echo $! >$Q/pid) && for i in $(seq 50); do psql -h $Q -p $P -c 'select 1' postgres >/dev/null 2>&1 && break; sleep 0.2; done && pgbench -q -h $Q -p $P -i postgres`,
		round: `pgbench -h $Q -p $P -T 5 -c 2 postgres && psql -h 127.0.0.1 -p $P -c 'vacuum' postgres && pg_dump -h $Q -p $P postgres | gzip >$Q/dump.gz`,
	},
	{
		name: "redis", needs: []string{"redis-server", "redis-benchmark"}, port: 18482,
		begin: `cd $Q && (redis-server --port $P --bind 127.0.0.1 --dir $Q --save 20 1 & echo $! >$Q/pid)`,
		round: `redis-benchmark -h 127.0.0.1 -p $P -n 5000 -q && redis-cli -p $P bgsave`,
	},
	{
		name: "rsync", needs: []string{"rsync"},
		round: `rsync -a --delete /usr/share/doc/ $Q/doc/ && tar -czf $Q/backup.tgz -C $Q doc && rm -f $Q/backup.old && mv $Q/backup.tgz $Q/backup.old`,
	},
	{
		name: "ssh", needs: []string{"sshd", "ssh", "ssh-keygen"}, port: 18483,
		begin: sshd,
		round: `ssh $(cat $Q/opts) root@127.0.0.1 'uptime; df -h | head -3; ps aux | wc -l; tail -1 /etc/passwd >/dev/null' && scp $(cat $Q/opts | sed 's/-p /-P /') $Q/sshd_config root@127.0.0.1:$Q/copy && echo "ls $Q" | sftp -b - $(cat $Q/opts | sed 's/-p /-P /') root@127.0.0.1`,
	},
	{
		name: "push", needs: []string{"sshd", "ssh", "ssh-keygen", "python3", "tar"}, port: 18484,
		begin: sshd,
		// As configuration management does it: a module by ssh into a folder of the account, run,
		// a file compared and put in its place, a service told.
		round: `S="ssh $(cat $Q/opts) root@127.0.0.1"; T=$Q/remote/.tasks/$RANDOM; $S "mkdir -p $T && chmod 700 $T" && printf 'import json,os,sys\nprint(json.dumps({"changed": os.path.exists(sys.argv[1])}))\n' | $S "cat >$T/module.py" && $S "python3 $T/module.py /etc/hostname && rm -rf $T" && date | $S "mkdir -p $Q/etc && cat >$Q/etc/app.conf.new && cmp -s $Q/etc/app.conf.new $Q/etc/app.conf || install -m 644 $Q/etc/app.conf.new $Q/etc/app.conf" && tar -cf - -C /usr/share/doc/bash . | $S "mkdir -p $Q/deploy && tar -xf - -C $Q/deploy"`,
	},
	{
		name: "settings", needs: []string{"sshd", "ssh", "ssh-keygen", "unshare", "useradd"}, port: 18485,
		// What configuration management changes on a host, for which attackers change it too: an account with its key,
		// a job, a unit, a service told. The host's /etc is seen through an overlay: nothing of it is changed.
		begin: sshdKeys + ` && mkdir -p $Q/up $Q/wk && (unshare -m sh -c "mount -t overlay overlay -o lowerdir=/etc,upperdir=$Q/up,workdir=$Q/wk /etc && exec $(command -v sshd) -D -f $Q/sshd_config" & echo $! >$Q/pid) && sleep 0.5`,
		round: `S="ssh $(cat $Q/opts) root@127.0.0.1"; $S "id deploy >/dev/null 2>&1 || useradd -l -M -d $Q/home deploy; mkdir -p -m 700 $Q/home/.ssh" && $S "cat >$Q/home/.ssh/authorized_keys && chmod 600 $Q/home/.ssh/authorized_keys" <$Q/key.pub &&
printf '[Service]\nExecStart=/usr/bin/sleep 600\n# %s\n' $RANDOM | $S "cat >$Q/app.service && install -m 644 $Q/app.service /etc/systemd/system/app.service" && printf '17 3 * * * root df -h\n# %s\n' $RANDOM | $S "cat >$Q/app.cron && install -m 644 $Q/app.cron /etc/cron.d/app" && printf 'net.core.somaxconn = 4096\n' | $S "cat >/etc/sysctl.d/60-app.conf" &&
$S "if [ -s $Q/app.pid ]; then kill \$(cat $Q/app.pid); fi; setsid sleep 600 >/dev/null 2>&1 & echo \$! >$Q/app.pid" && $S "userdel deploy; rm -f /etc/cron.d/app"`,
	},
	{
		name: "look", needs: []string{"ps", "free", "ss"},
		// What monitoring and people who look after a machine ask it.
		round: `uptime; free -m; ps aux --sort=-%cpu | head -5; df -h; ss -ltn; cat /proc/loadavg; who; last -n 2; id; uname -a; ls -la /etc | tail -2; du -sh /var/log; journalctl -n 1 2>/dev/null; find /etc -newer /etc/hostname -maxdepth 1 | head -3`,
	},
}

// sshd is an own one on loopback with keys of its own.
const sshd = sshdKeys + ` && ($(command -v sshd) -D -f $Q/sshd_config & echo $! >$Q/pid) && sleep 0.5`

const sshdKeys = `cd $Q && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f key && printf 'Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/key.pub\nStrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n' $P $Q $Q >sshd_config && mkdir -p /run/sshd && echo "-q -p $P -i $Q/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=$Q/known -o BatchMode=yes" >$Q/opts`
