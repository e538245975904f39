package host

var (
	attackNames     = setOf(attackTools)
	credentialNames = setOf("mimipenguin lazagne pypykatz 3snake linikatz swap_digger unshadow ssh2john zip2john truffleproc mimikatz")
)

const attackTools = "nmap zmap masscan zgrab hydra medusa ncrack patator sqlmap nikto msfconsole msfvenom msfd msfrpcd ettercap bettercap responder aircrack-ng airodump-ng aireplay-ng reaver wifite arpspoof dnsspoof dsniff hping hping3 slowloris goldeneye gobuster dirb dirbuster ffuf wfuzz feroxbuster enum4linux enum4linux-ng crackmapexec cme netexec nxc linpeas linenum linux-exploit-suggester les pspy pspy32 pspy64 wpscan routersploit rsf unicornscan evil-winrm proxychains proxychains4 kerbrute smbmap onesixtyone snmpcheck ike-scan thc-ssl-dos xerxes t50 mdk3 mdk4 tcpscan zmapv6 rustscan naabu nuclei yersinia"

func toolScript(l *line, i int) string {
	if n := bare(l.commands[i].script()); attackNames[n] {
		return n
	}
	return ""
}

func credentialScript(l *line, i int) string {
	if n := bare(l.commands[i].script()); credentialNames[n] {
		return n
	}
	return ""
}
