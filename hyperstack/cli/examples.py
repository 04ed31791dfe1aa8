"""What people type, for the pages of docs/commands."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {
    "attach": "hyperctl attach web                    # Ctrl-P Ctrl-Q leaves it running",
    "build": "hyperctl build -t app:1 .\nhyperctl build -t app:1 --build-arg VERSION=2 --target test .\n"
             "hyperctl build -f other/Dockerfile --no-cache --pull .\nhyperctl build - < Dockerfile",
    "builder prune": "hyperctl builder prune -af --filter until=24h",
    "commit": "hyperctl commit web web:patched\n"
              "hyperctl commit -m 'with curl' -c 'CMD [\"serve\"]' -c 'ENV MODE=fast' web web:2",
    "container prune": "hyperctl container prune -f --filter until=24h",
    "cp": "hyperctl cp web:/etc/nginx ./nginx\nhyperctl cp page.html web:/srv/\n"
          "hyperctl cp web:/var/log - | tar t\ntar c site | hyperctl cp - web:/srv",
    "create": "hyperctl create --name web -p 8080:80 nginx\nhyperctl start web",
    "doctor": "hyperctl doctor\nhyperctl doctor --format '{{.status}} {{.name}}'",
    "events": "hyperctl events --since 10m --filter type=container\nhyperctl events --format json | jq .Action",
    "exec": "hyperctl exec -it web sh\nhyperctl exec -u 0 -e DEBUG=1 web id\necho data | hyperctl exec -i web cat",
    "export": "hyperctl export -o web.tar web\nhyperctl export web | tar t",
    "images": "hyperctl images --filter dangling=true\nhyperctl images --format 'table {{.Repository}}\\t{{.Size}}'",
    "import": "hyperctl import -c 'CMD [\"sh\"]' rootfs.tar mine:1",
    "inspect": "hyperctl inspect web\nhyperctl inspect -f '{{.State.Status}} {{json .Config.Labels}}' web\n"
               "hyperctl inspect -f '{{range $port, $at := .NetworkSettings.Ports}}{{$port}} {{end}}' web",
    "kernel ls": "hyperctl kernel ls\nhyperctl run --kernel debian-cloud busybox uname -r",
    "kill": "hyperctl kill -s HUP web",
    "load": "hyperctl load -i images.tar",
    "login": "hyperctl login registry.example:5000\n"
             "hyperctl login -u me --password-stdin registry.example < password",
    "logs": "hyperctl logs -f --tail 100 web\nhyperctl logs --since 10m -t web",
    "network connect": "hyperctl network connect --alias db back store",
    "network create": "hyperctl network create front\n"
                      "hyperctl run -d --name db --network front --network-alias store postgres\n"
                      "hyperctl run --rm --network front busybox ping -c 1 store\n"
                      "hyperctl network create --subnet 10.20.0.0/16 --ip-range 10.20.5.0/24 --internal back",
    "network ls": "hyperctl network ls --filter type=custom",
    "pod create": "hyperctl pod create -f pod.yaml\ncat pod.yaml | hyperctl pod create -f -",
    "pod logs": "hyperctl pod logs -f -c worker two",
    "pod ls": "hyperctl pod ls\nhyperctl pod ls --format '{{.Name}} {{.Status}}'",
    "port": "hyperctl port web\nhyperctl port web 80/tcp",
    "ps": "hyperctl ps -a --filter label=tier=front\nhyperctl ps --format 'table {{.Names}}\\t{{.Status}}'\n"
          "hyperctl rm $(hyperctl ps -aq --filter status=exited)",
    "pull": "hyperctl pull busybox\nhyperctl pull registry.example:5000/team/app:2",
    "push": "hyperctl tag web registry.example/team/web:2\nhyperctl push registry.example/team/web:2",
    "restart": "hyperctl restart -t 30 web",
    "rm": "hyperctl rm -fv web",
    "rmi": "hyperctl rmi busybox:latest",
    "run": "hyperctl run --rm busybox uname -r      # the guest's own kernel\nhyperctl run -it --rm busybox\n"
           "hyperctl run -d --name web -p 8080:80 -m 256m --restart unless-stopped nginx\n"
           "tar c . | hyperctl run -i --rm busybox tar t",
    "save": "hyperctl save -o images.tar busybox nginx\nhyperctl save busybox | gzip > busybox.tar.gz",
    "search": "hyperctl search localhost:5000/team",
    "start": "hyperctl start web\nhyperctl start -ai job",
    "stats": "hyperctl stats\nhyperctl stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.HostMem}}'",
    "stop": "hyperctl stop -t 30 web db",
    "tag": "hyperctl tag busybox registry.example:5000/mine:1",
    "top": "hyperctl top web\nhyperctl top web -o pid,user,args",
    "update": "hyperctl update -m 512m --restart always web",
    "version": "hyperctl version\nhyperctl version -f '{{.Server.Version}}'",
    "volume create": "hyperctl volume create -o size=10G data\nhyperctl run -v data:/data busybox df /data",
    "wait": "hyperctl wait job",
}

EXIT_CODES = """\
| code | meaning |
|---|---|
| 125 | hyperctl or hyperd failed: a wrong option, no such image, no daemon |
| 126 | the command cannot be invoked: permission denied, is a directory |
| 127 | the command was not found in the image |
| 128 + n | the command was ended by signal n (137: SIGKILL, 143: SIGTERM) |
| other | the command's own |
"""
